#include "gateway/openai/fields.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/json/stream_parser.hpp"
#include "gateway/openai/error.h"
#include "gateway/openai/views.h"
#include "gateway/text/utf8.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

// Deep enough for tool schemas in messages, far from a stack's end.
constexpr size_t kMaxDepth = 64;

}  // namespace

absl::StatusOr<json::object> ParseObject(std::string_view body) {
  if (body.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    return absl::InvalidArgumentError("the request body is empty: send a JSON object");
  }
  const size_t broken = FindInvalidUtf8(body);
  if (broken != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request body is not valid UTF-8 at byte ", broken));
  }
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::stream_parser parser({}, options);
  boost::system::error_code error;
  const size_t parsed = parser.write_some(body.data(), body.size(), error);
  if (!error) {
    // Only white space may follow.
    const size_t rest = body.find_first_not_of(" \t\r\n", parsed);
    if (rest != std::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("the request body is not valid JSON: something follows at byte ", rest));
    }
    parser.finish(error);
  }
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request body is not valid JSON: ", error.message(), " at byte ", parsed));
  }
  json::value value = parser.release();
  if (!value.is_object()) {
    return absl::InvalidArgumentError("the request body must be a JSON object");
  }
  return std::move(value.as_object());
}

std::optional<int64_t> WholeNumber(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (value.is_uint64()) {
    // Seeds use all 64 bits; ranges are checked by whoever asks.
    return std::nullopt;
  }
  if (value.is_double()) {
    const double number = value.get_double();
    constexpr double kExact = 9007199254740992.0;  // 2^53
    if (number == std::floor(number) && std::abs(number) <= kExact) {
      return static_cast<int64_t>(number);
    }
  }
  return std::nullopt;
}

std::optional<std::vector<uint32_t>> TokenIds(const json::array& array) {
  std::vector<uint32_t> ids;
  ids.reserve(array.size());
  for (const json::value& value : array) {
    const std::optional<int64_t> id = WholeNumber(value);
    if (!id || *id < 0 || *id > std::numeric_limits<uint32_t>::max()) return std::nullopt;
    ids.push_back(static_cast<uint32_t>(*id));
  }
  return ids;
}

const json::value* Fields::Find(std::string_view name) const {
  const json::value* const value = object_.if_contains(json::string_view(name));
  return value == nullptr || value->is_null() ? nullptr : value;
}

const json::object* Fields::FindObject(std::string_view name) {
  const json::value* const value = Find(name);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) Fail(name, "must be an object");
  return value->if_object();
}

void Fields::Fail(std::string_view name, std::string_view must) {
  if (!status_.ok()) return;
  const std::string full = absl::StrCat(prefix_, AbslView(name));
  status_ = ParameterError(full, absl::StrCat("'", full, "' ", AbslView(must)));
}

void Fields::Read(std::string_view name, std::string* out) {
  const json::value* const value = Find(name);
  if (value == nullptr) return;
  if (!value->is_string()) return Fail(name, "must be a string");
  *out = std::string(value->get_string());
}

void Fields::Read(std::string_view name, bool* out) {
  const json::value* const value = Find(name);
  if (value == nullptr) return;
  if (!value->is_bool()) return Fail(name, "must be true or false");
  *out = value->get_bool();
}

void Fields::Read(std::string_view name, double low, double high, double* out) {
  const json::value* const value = Find(name);
  if (value == nullptr) return;
  const double number = value->is_number() ? value->to_number<double>() : std::nan("");
  // Not-a-number fails both comparisons.
  if (!(number >= low && number <= high)) {
    return Fail(name, absl::StrCat("must be a number from ", low, " to ", high));
  }
  *out = number;
}

void Fields::Read(std::string_view name, int64_t low, int64_t high, int64_t* out) {
  const json::value* const value = Find(name);
  if (value == nullptr) return;
  const std::optional<int64_t> number = WholeNumber(*value);
  if (!number || *number < low || *number > high) {
    const std::string top = high == std::numeric_limits<int64_t>::max() || high >= UINT32_MAX
                                ? absl::StrCat(" of at least ", low)
                                : absl::StrCat(" from ", low, " to ", high);
    return Fail(name, absl::StrCat("must be a whole number", top));
  }
  *out = *number;
}

}  // namespace tessera::openai
