#include "gateway/openai/request.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "boost/json/object.hpp"
#include "gateway/openai/chunk_resolver.h"
#include "gateway/openai/controls.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/sampling.h"
#include "gateway/openai/unsupported.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

constexpr size_t kMaxStopStrings = 4;
// Every answer looks for them on its own.
constexpr size_t kMaxStopBytes = 1024;
constexpr int64_t kMaxAnswersEach = 128;
constexpr size_t kMaxAnswers = 1024;
constexpr int64_t kMaxLogprobs = 20;
constexpr int64_t kMaxUint32 = std::numeric_limits<uint32_t>::max();

void ReadStops(Fields& fields, ApiRequest* request) {
  const json::value* const stop = fields.Find("stop");
  if (stop != nullptr && stop->is_string()) {
    request->stop.emplace_back(stop->get_string());
  } else if (stop != nullptr && stop->is_array()) {
    for (const json::value& text : stop->get_array()) {
      if (!text.is_string()) return fields.Fail("stop", "must hold strings only");
      request->stop.emplace_back(text.get_string());
    }
  } else if (stop != nullptr) {
    return fields.Fail("stop", "must be a string or an array of strings");
  }
  if (request->stop.size() > kMaxStopStrings) {
    return fields.Fail("stop", absl::StrCat("must have at most ", kMaxStopStrings, " strings"));
  }
  for (const std::string& text : request->stop) {
    if (text.empty()) return fields.Fail("stop", "must not hold an empty string");
    if (text.size() > kMaxStopBytes) {
      return fields.Fail("stop",
                         absl::StrCat("must hold strings of at most ", kMaxStopBytes, " bytes"));
    }
  }
  fields.Read("include_stop_str_in_output", &request->include_stop);
}

void ReadEndTokens(Fields& fields, ApiRequest* request) {
  fields.Read("ignore_eos", &request->ignore_eos);
  const json::value* const ids = fields.Find("stop_token_ids");
  if (ids == nullptr) return;
  std::optional<std::vector<uint32_t>> tokens;
  if (ids->is_array()) tokens = TokenIds(ids->get_array());
  if (!tokens) return fields.Fail("stop_token_ids", "must be an array of token ids");
  request->stop_token_ids = *std::move(tokens);
}

void ReadAnswers(Fields& fields, ApiRequest* request) {
  int64_t n = 1;
  fields.Read("n", 1, kMaxAnswersEach, &n);
  request->n = static_cast<uint32_t>(n);
  int64_t best_of = n;
  fields.Read("best_of", 1, kMaxAnswersEach, &best_of);
  if (best_of != n) fields.Fail("best_of", "must be equal to n: every answer is returned");
}

void ReadLength(Fields& fields, ApiRequest* request) {
  fields.Read("echo", &request->echo);
  const int64_t least = request->echo ? 0 : 1;
  int64_t max_tokens = -1;
  fields.Read("max_tokens", least, kMaxUint32, &max_tokens);
  // The newer name wins where both are given.
  fields.Read("max_completion_tokens", least, kMaxUint32, &max_tokens);
  if (max_tokens >= 0) request->max_tokens = static_cast<uint32_t>(max_tokens);
  if (max_tokens >= 0 && request->sampling.min_tokens() > max_tokens) {
    fields.Fail("min_tokens", "must be at most max_tokens");
  }
  int64_t keep = 0;
  fields.Read("truncate_prompt_tokens", -1, kMaxUint32, &keep);
  if (fields.Find("truncate_prompt_tokens") == nullptr) return;
  if (keep == 0) fields.Fail("truncate_prompt_tokens", "must be at least 1, or -1: what fits");
  request->truncate_prompt_tokens = static_cast<uint32_t>(std::max<int64_t>(keep, 0));
}

// Chat has a switch and a number, completions a number.
void ReadLogprobs(Fields& fields, ApiRequest* request) {
  int64_t top = 0;
  bool on = false;
  const json::value* const logprobs = fields.Find("logprobs");
  if (request->endpoint == Endpoint::kChat) {
    fields.Read("logprobs", &on);
    fields.Read("top_logprobs", 0, kMaxLogprobs, &top);
    if (top > 0 && !on) fields.Fail("top_logprobs", "needs logprobs: true");
  } else {
    on = logprobs != nullptr && *logprobs != false;
    if (on) fields.Read("logprobs", 0, kMaxLogprobs, &top);
  }
  if (on) request->logprobs = static_cast<uint32_t>(top);
}

void ReadStream(Fields& fields, ApiRequest* request) {
  fields.Read("stream", &request->stream);
  const json::object* const options = fields.FindObject("stream_options");
  if (options == nullptr) return;
  if (!request->stream) return fields.Fail("stream_options", "is only allowed with stream: true");
  Fields nested(*options, "stream_options.");
  nested.Read("include_usage", &request->include_usage);
  nested.Read("continuous_usage_stats", &request->continuous_usage);
  if (!nested.status().ok()) {
    fields.Fail("stream_options",
                "must be {\"include_usage\": true or false, \"continuous_usage_stats\": true or "
                "false}");
  }
}

void ReadRest(Fields& fields, ApiRequest* request) {
  std::string user;
  int64_t priority = 0;
  fields.Read("model", &request->model);
  fields.Read("user", &user);
  fields.Read("cache_salt", &request->cache_salt);
  fields.Read("skip_special_tokens", &request->skip_special_tokens);
  fields.Read("return_token_ids", &request->return_token_ids);
  fields.Read("priority", std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max(),
              &priority);
  request->priority = static_cast<int32_t>(priority);
}

absl::Status ReadFields(Fields& fields, ApiRequest* request) {
  ReadRest(fields, request);
  ReadSampling(fields, &request->sampling);
  ReadStops(fields, request);
  ReadEndTokens(fields, request);
  ReadAnswers(fields, request);
  ReadLength(fields, request);
  ReadLogprobs(fields, request);
  ReadStream(fields, request);
  if (request->endpoint == Endpoint::kCompletions && fields.Find("documents") != nullptr) {
    fields.Fail("documents",
                "belongs to /v1/chat/completions: mark passages in a completion's prompt with the "
                "separator, or send it as an array of parts");
  }
  return fields.status();
}

}  // namespace

absl::StatusOr<ApiRequest> ParseRequest(Endpoint endpoint, const http::Request& http_request,
                                        const ParseLimits& limits, ChunkTexts* chunk_texts) {
  ASSIGN_OR_RETURN(const json::object body, ParseObject(http_request.body));
  ApiRequest request;
  request.endpoint = endpoint;
  // What is not built is named first: some of it would be an error of another kind below.
  const bool chat = endpoint == Endpoint::kChat;
  RETURN_IF_ERROR(CheckUnsupported(body, chat));
  RETURN_IF_ERROR(ReadSaltHeader(http_request, &request.cache_salt));
  Fields fields(body);
  RETURN_IF_ERROR(ReadFields(fields, &request));
  const json::object* const controls = fields.FindObject("tessera");
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(ReadControls(http_request, controls, &request.blend));
  ChunkResolver chunks(chunk_texts, request.cache_salt);
  if (chat) {
    ASSIGN_OR_RETURN(Prompt prompt, ParseChatPrompt(body, chunks));
    request.prompts.push_back(std::move(prompt));
  } else {
    ASSIGN_OR_RETURN(request.prompts, ParseCompletionPrompts(body, limits.max_prompts, chunks));
  }
  if (request.prompts.size() * request.n > kMaxAnswers) {
    fields.Fail("n", absl::StrCat("asks for more than ", kMaxAnswers,
                                  " answers in one request: send several requests"));
  }
  RETURN_IF_ERROR(fields.status());
  return request;
}

}  // namespace tessera::openai
