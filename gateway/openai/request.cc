#include "gateway/openai/request.h"

#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "boost/json/object.hpp"
#include "gateway/openai/error.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/parse_prompt.h"
#include "gateway/openai/unsupported.h"
#include "gateway/openai/views.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;
namespace v1 = worker::v1;

constexpr size_t kMaxStopStrings = 4;
constexpr int64_t kMaxUint32 = std::numeric_limits<uint32_t>::max();
constexpr std::string_view kPolicies[] = {"query_v", "query", "hkvd_v", "hkvd_k",
                                          "first_k", "none",  "full",   "random"};
constexpr std::string_view kPolicyNames =
    "query_v, query, hkvd_v, hkvd_k, first_k, none, full, random, or one of them with +first";

// A policy, or one with the first rows added, as the worker names them.
bool KnownPolicy(std::string_view policy) {
  constexpr std::string_view kPlusFirst = "+first";
  if (policy.ends_with(kPlusFirst)) policy.remove_suffix(kPlusFirst.size());
  return std::find(std::begin(kPolicies), std::end(kPolicies), policy) != std::end(kPolicies);
}

void ReadSampling(Fields& fields, v1::SamplingOptions* sampling) {
  double temperature = 1.0;
  double top_p = 1.0;
  int64_t top_k = 0;
  fields.Read("temperature", 0.0, 2.0, &temperature);
  fields.Read("top_p", 0.0, 1.0, &top_p);
  if (top_p == 0.0) fields.Fail("top_p", "must be above 0 and at most 1; 1 keeps every token");
  // Others write "all tokens" as -1.
  fields.Read("top_k", -1, kMaxUint32, &top_k);
  sampling->set_temperature(static_cast<float>(temperature));
  sampling->set_top_p(static_cast<float>(top_p));
  sampling->set_top_k(top_k < 0 ? 0 : static_cast<uint32_t>(top_k));
  const json::value* const seed = fields.Find("seed");
  if (seed == nullptr) return;
  const std::optional<int64_t> number = WholeNumber(*seed);
  if (seed->is_uint64()) {
    sampling->set_seed(seed->get_uint64());
  } else if (number) {
    sampling->set_seed(static_cast<uint64_t>(*number));
  } else {
    fields.Fail("seed", "must be a whole number");
  }
}

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
  }
  const json::value* const ids = fields.Find("stop_token_ids");
  if (ids == nullptr) return;
  std::optional<std::vector<uint32_t>> tokens;
  if (ids->is_array()) tokens = TokenIds(ids->get_array());
  if (!tokens) return fields.Fail("stop_token_ids", "must be an array of token ids");
  request->stop_token_ids = *std::move(tokens);
}

void ReadLength(Fields& fields, ApiRequest* request) {
  int64_t max_tokens = 0;
  fields.Read("max_tokens", 1, kMaxUint32, &max_tokens);
  // The newer name wins where both are given.
  fields.Read("max_completion_tokens", 1, kMaxUint32, &max_tokens);
  if (max_tokens > 0) request->max_tokens = static_cast<uint32_t>(max_tokens);
}

void ReadStream(Fields& fields, ApiRequest* request) {
  fields.Read("stream", &request->stream);
  const json::object* const options = fields.FindObject("stream_options");
  if (options == nullptr) return;
  if (!request->stream) return fields.Fail("stream_options", "is only allowed with stream: true");
  Fields nested(*options, "stream_options.");
  nested.Read("include_usage", &request->include_usage);
  if (!nested.status().ok()) {
    fields.Fail("stream_options", "must be {\"include_usage\": true or false}");
  }
}

// The object `tessera`. It is ours, so an unknown name in it is a mistake and not another's
// feature.
absl::Status ReadBlend(const json::object& object, v1::BlendOptions* blend) {
  Fields fields(object, "tessera.");
  std::string mode;
  std::string policy;
  double ratio = -1;
  bool correction = false;
  fields.Read("mode", &mode);
  fields.Read("policy", &policy);
  fields.Read("recompute_ratio", 0.0, 1.0, &ratio);
  fields.Read("correction", &correction);
  if (mode == "auto") {
    blend->set_mode(v1::AUTO);
  } else if (mode == "exact") {
    blend->set_mode(v1::EXACT);
  } else if (fields.Find("mode") != nullptr) {
    fields.Fail("mode", "must be \"auto\" or \"exact\"");
  }
  if (fields.Find("policy") != nullptr && !KnownPolicy(policy)) {
    fields.Fail("policy", absl::StrCat("must be one of ", AbslView(kPolicyNames)));
  }
  blend->set_policy(policy);
  if (ratio >= 0) blend->set_recompute_ratio(static_cast<float>(ratio));
  if (fields.Find("correction") != nullptr) blend->set_correction(correction);
  for (const auto& field : object) {
    const std::string_view name(field.key().data(), field.key().size());
    if (name == "mode" || name == "policy" || name == "recompute_ratio" || name == "correction") {
      continue;
    }
    fields.Fail(name, "is not known: use mode, policy, recompute_ratio, correction");
  }
  return fields.status();
}

}  // namespace

absl::StatusOr<ApiRequest> ParseRequest(Endpoint endpoint, std::string_view text) {
  ASSIGN_OR_RETURN(const json::object body, ParseObject(text));
  ApiRequest request;
  request.endpoint = endpoint;
  Fields fields(body);
  std::string user;
  fields.Read("model", &request.model);
  fields.Read("user", &user);
  fields.Read("cache_salt", &request.cache_salt);
  fields.Read("ignore_eos", &request.ignore_eos);
  fields.Read("skip_special_tokens", &request.skip_special_tokens);
  ReadSampling(fields, &request.sampling);
  ReadStops(fields, &request);
  ReadLength(fields, &request);
  ReadStream(fields, &request);
  const json::object* const blend = fields.FindObject("tessera");
  const bool chat = endpoint == Endpoint::kChat;
  if (!chat && fields.Find("documents") != nullptr) {
    fields.Fail("documents",
                "belongs to /v1/chat/completions: mark passages in a completion's prompt with the "
                "separator");
  }
  RETURN_IF_ERROR(fields.status());
  if (blend != nullptr) RETURN_IF_ERROR(ReadBlend(*blend, &request.blend));
  RETURN_IF_ERROR(CheckUnsupported(body));
  ASSIGN_OR_RETURN(request.prompt, chat ? ParseChatPrompt(body) : ParseCompletionPrompt(body));
  return request;
}

}  // namespace tessera::openai
