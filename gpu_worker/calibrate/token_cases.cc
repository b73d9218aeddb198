#include "gpu_worker/calibrate/token_cases.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "boost/json.hpp"

namespace tessera {
namespace {

namespace json = boost::json;

constexpr size_t kMostCases = 100000;
constexpr size_t kMostLine = size_t{16} << 20;
constexpr char kForm[] =
    "{\"segments\": [[ids of the lead], [ids of a passage], ..., [ids of the "
    "question]]}";

absl::Status HoldsTexts(const std::string& path, const std::string& model_folder) {
  return absl::InvalidArgumentError(absl::StrCat(
      path,
      " holds texts, and the worker has no tokenizer. Make token ids of them first: "
      "python3 tests/eval/tokenize_cases.py ",
      path, " --folder ", model_folder, " > cases.jsonl; then --calibrate=cases.jsonl"));
}

// A list over several lines, or objects that have passages: a data set of texts.
bool LooksLikeTexts(const std::string& line) {
  const absl::string_view text = absl::StripLeadingAsciiWhitespace(line);
  return text.substr(0, 1) == "[" || text.find("\"ctxs\"") != absl::string_view::npos;
}

absl::StatusOr<std::vector<uint32_t>> ParseIds(const json::value& value, int64_t vocab) {
  if (!value.is_array() || value.as_array().empty()) {
    return absl::InvalidArgumentError("a segment is no list of token ids");
  }
  std::vector<uint32_t> ids;
  for (const json::value& id : value.as_array()) {
    if (!id.is_int64() || id.as_int64() < 0 || id.as_int64() >= vocab) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token id ", json::serialize(id).substr(0, 32), " is none below the vocabulary's ", vocab,
          ": make the file with this model's tokenizer"));
    }
    ids.push_back(static_cast<uint32_t>(id.as_int64()));
  }
  return ids;
}

absl::StatusOr<TokenCase> ParseCase(const std::string& line, int64_t vocab, int64_t most_tokens) {
  json::error_code error;
  const json::value root = json::parse(line, error);
  const json::value* segments =
      !error && root.is_object() ? root.as_object().if_contains("segments") : nullptr;
  if (segments == nullptr || !segments->is_array() || segments->as_array().size() < 3) {
    return absl::InvalidArgumentError(absl::StrCat("no ", kForm, " of at least three segments"));
  }
  TokenCase parsed;
  int64_t tokens = 0;
  for (const json::value& segment : segments->as_array()) {
    ASSIGN_OR_RETURN(std::vector<uint32_t> ids, ParseIds(segment, vocab));
    tokens += static_cast<int64_t>(ids.size());
    parsed.push_back(std::move(ids));
  }
  if (tokens > most_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", tokens, " tokens, but ",
                                                   most_tokens,
                                                   " may be: shorten it, or raise --max_len"));
  }
  return parsed;
}

}  // namespace

absl::StatusOr<std::vector<TokenCase>> ReadTokenCases(const std::string& path,
                                                      const ModelConfig& model,
                                                      const std::string& model_folder,
                                                      int64_t most_tokens) {
  std::ifstream file(path);
  if (!file) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path, " (", std::strerror(errno),
                                                   "): --calibrate names a file of lines ", kForm));
  }
  std::vector<TokenCase> cases;
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    if (cases.empty() && LooksLikeTexts(line)) return HoldsTexts(path, model_folder);
    absl::StatusOr<TokenCase> parsed = line.size() > kMostLine
                                           ? absl::InvalidArgumentError("longer than 16 MiB")
                                           : ParseCase(line, model.vocab, most_tokens);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": ", parsed.status().message()));
    }
    cases.push_back(*std::move(parsed));
    if (cases.size() > kMostCases) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " has more than ", kMostCases, " cases: give fewer"));
    }
  }
  if (cases.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has no case: give lines ", kForm));
  }
  return cases;
}

}  // namespace tessera
