#include "gpu_worker/calibrate/calibration.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "boost/json.hpp"
#include "gpu_worker/blend/policy.h"
#include "gpu_worker/calibrate/sink_name.h"

namespace tessera {
namespace {

namespace json = boost::json;

constexpr int64_t kFormat = 1;

// Fields of one object, checked as they are read: the first that is missing or of another kind is
// remembered.
class Reader {
 public:
  explicit Reader(const json::object& from) : from_(from) {}

  std::string Text(const char* name) {
    const json::value* value = Find(name);
    if (value == nullptr || !value->is_string()) return Fail(name, "text"), "";
    return std::string(value->as_string());
  }

  double Number(const char* name, double least, double most) {
    const json::value* value = Find(name);
    const double number = value == nullptr     ? -1
                          : value->is_int64()  ? static_cast<double>(value->as_int64())
                          : value->is_double() ? value->as_double()
                                               : -1;
    // Also for NaN, which is between nothing.
    if (!(number >= least && number <= most)) Fail(name, "number in its range");
    return number;
  }

  bool Flag(const char* name) {
    const json::value* value = Find(name);
    if (value == nullptr || !value->is_bool()) return Fail(name, "true or false"), false;
    return value->as_bool();
  }

  const std::string& fault() const { return fault_; }

 private:
  const json::value* Find(const char* name) const { return from_.if_contains(name); }
  void Fail(const char* name, const char* kind) {
    if (fault_.empty()) fault_ = absl::StrCat(name, " is no ", kind);
  }

  const json::object& from_;
  std::string fault_;
};

absl::StatusOr<Calibration> Parse(const std::string& text) {
  json::error_code error;
  const json::value root = json::parse(text, error);
  if (error || !root.is_object()) return absl::InvalidArgumentError("it is no JSON object");
  Reader reader(root.as_object());
  Calibration read;
  reader.Number("format", kFormat, kFormat);
  read.fingerprint = reader.Text("fingerprint");
  read.policy = reader.Text("policy");
  read.recompute_ratio = reader.Number("recompute_ratio", 0, 1);
  read.correction = reader.Flag("correction");
  read.sink = reader.Text("sink");
  read.budget = reader.Text("budget");
  read.date = reader.Text("date");
  read.device = reader.Text("device");
  read.cases = static_cast<int64_t>(reader.Number("cases", 1, 1e9));
  read.mean_tokens = static_cast<int64_t>(reader.Number("mean_tokens", 1, 1e9));
  read.kl1 = reader.Number("kl1", 0, 1e9);
  read.kl16 = reader.Number("kl16", 0, 1e9);
  read.kl16_worst = reader.Number("kl16_worst", 0, 1e9);
  read.ttft_share = reader.Number("ttft_share", 0, 1e9);
  if (!reader.fault().empty()) return absl::InvalidArgumentError(reader.fault());
  RETURN_IF_ERROR(SelectionPolicy::Parse(read.policy).status());
  RETURN_IF_ERROR(ParseSink(read.sink).status());
  return read;
}

absl::Status WithAdvice(const std::string& path, const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(
      path, ": ", what, ": delete the file, or calibrate again with tessera_worker --calibrate"));
}

}  // namespace

std::string Calibration::Choice() const {
  return absl::StrCat(policy, ",", recompute_ratio, ",", correction ? "corrected" : "uncorrected",
                      ",", sink);
}

std::string CalibrationPath(const std::string& model_folder) {
  return absl::StrCat(model_folder, "/tessera_calibration.json");
}

absl::StatusOr<std::optional<Calibration>> ReadCalibration(const std::string& model_folder,
                                                           const std::string& fingerprint) {
  const std::string path = CalibrationPath(model_folder);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  const absl::StatusOr<std::string> text = ReadSmallFile(path, "calibration");
  if (!text.ok()) return WithAdvice(path, std::string(text.status().message()));
  const absl::StatusOr<Calibration> read = Parse(*text);
  if (!read.ok())
    return WithAdvice(path, absl::StrCat("no calibration: ", read.status().message()));
  if (read->fingerprint != fingerprint) {
    return WithAdvice(path, absl::StrCat("made for another model, of fingerprint ",
                                         read->fingerprint.substr(0, 16), "; this one has ",
                                         fingerprint.substr(0, 16)));
  }
  return *read;
}

absl::Status WriteCalibration(const std::string& model_folder, const Calibration& calibration) {
  const json::object object = {
      {"format", kFormat},
      {"fingerprint", calibration.fingerprint},
      {"policy", calibration.policy},
      {"recompute_ratio", calibration.recompute_ratio},
      {"correction", calibration.correction},
      {"sink", calibration.sink},
      {"budget", calibration.budget},
      {"date", calibration.date},
      {"device", calibration.device},
      {"cases", calibration.cases},
      {"mean_tokens", calibration.mean_tokens},
      {"kl1", calibration.kl1},
      {"kl16", calibration.kl16},
      {"kl16_worst", calibration.kl16_worst},
      {"ttft_share", calibration.ttft_share},
  };
  return WriteSmallFile(CalibrationPath(model_folder), json::serialize(object) + "\n");
}

}  // namespace tessera
