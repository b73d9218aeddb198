#include "gpu_worker/serve/request_check.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "gpu_worker/serve/sampling_check.h"

namespace tessera {
namespace {

using worker::v1::GenerateRequest;

constexpr uint32_t kMostAnswers = 128;
constexpr uint32_t kMostTopLogprobs = 16384;
constexpr uint32_t kMostPromptLogprobs = 20;  // beside each of thousands of tokens
constexpr int kMostStopTokens = 1024;

absl::Status CheckIds(absl::string_view field, const google::protobuf::RepeatedField<uint32_t>& ids,
                      int64_t vocab) {
  for (uint32_t id : ids) {
    if (id < vocab) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": token id ", id, " is not below the vocabulary's ", vocab));
  }
  return absl::OkStatus();
}

absl::Status CheckMost(absl::string_view field, uint32_t value, uint32_t most) {
  if (value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ": set it to at most ", most));
}

absl::Status CheckSegments(const GenerateRequest& request, int64_t vocab, BlendRequest& prompt,
                           int64_t& tokens) {
  if (request.segments().empty()) {
    return absl::InvalidArgumentError("segments: the prompt is empty; send at least one token");
  }
  for (int i = 0; i < request.segments_size(); ++i) {
    const auto& ids = request.segments(i).token_ids();
    if (ids.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("segments[", i, "] is empty; leave out empty segments"));
    }
    RETURN_IF_ERROR(CheckIds(absl::StrCat("segments[", i, "]"), ids, vocab));
    prompt.segments.emplace_back(ids.begin(), ids.end());
    tokens += ids.size();
  }
  return absl::OkStatus();
}

absl::Status CheckLength(const GenerateRequest& request, int64_t tokens, int64_t max_len,
                         BlendRequest& prompt) {
  const int64_t room = max_len - tokens;
  if (room < 1) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", tokens,
                                                   " tokens, but prompt and answer may have ",
                                                   max_len, " together: shorten the prompt"));
  }
  prompt.max_new_tokens = request.max_tokens() == 0 ? room : request.max_tokens();
  if (prompt.max_new_tokens > room) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", tokens, " tokens and max_tokens is ", request.max_tokens(),
                     ", but both together may be ", max_len, ": lower max_tokens to ", room,
                     " or shorten the prompt"));
  }
  return absl::OkStatus();
}

absl::Status CheckBlend(const GenerateRequest& request, const BlendConfig& defaults,
                        bool blend_enabled, BlendRequest& prompt) {
  const auto& blend = request.blend();
  if (!worker::v1::BlendMode_IsValid(blend.mode())) {
    return absl::InvalidArgumentError(
        absl::StrCat("blend.mode is ", static_cast<int>(blend.mode()),
                     ": send 1 (auto), 2 (exact), 3 (blend) or 4 (off)"));
  }
  prompt.exact = !blend_enabled || blend.mode() == worker::v1::EXACT ||
                 blend.mode() == worker::v1::OFF || request.has_prompt_logprobs();
  prompt.prefixes = blend.mode() != worker::v1::OFF;
  prompt.choose = defaults.choose_by_cost && blend.mode() != worker::v1::BLEND;
  prompt.store = !blend.has_store() || blend.store();
  prompt.report_rows = blend.report_rows();
  prompt.policy = defaults.policy;
  if (!blend.policy().empty()) {
    ASSIGN_OR_RETURN(prompt.policy, SelectionPolicy::Parse(blend.policy()));
  }
  prompt.recompute_ratio = defaults.recompute_ratio;
  if (blend.has_recompute_ratio()) prompt.recompute_ratio = blend.recompute_ratio();
  if (!(prompt.recompute_ratio >= 0 && prompt.recompute_ratio <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("recompute_ratio is ", prompt.recompute_ratio, ": set it between 0 and 1"));
  }
  prompt.correction = blend.has_correction()
                          ? blend.correction()
                          : defaults.correction.value_or(prompt.policy.corrects_by_default());
  return absl::OkStatus();
}

absl::Status CheckForced(const GenerateRequest& request, int64_t vocab, int64_t most_tokens,
                         SamplingParams& sampling) {
  const auto& forced = request.forced_token_ids();
  if (forced.size() > most_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("forced_token_ids has ", forced.size(),
                                                   " tokens, but the answer may have ", most_tokens,
                                                   ": send fewer or raise max_tokens"));
  }
  RETURN_IF_ERROR(CheckIds("forced_token_ids", forced, vocab));
  sampling.forced.assign(forced.begin(), forced.end());
  return absl::OkStatus();
}

absl::Status CheckAnswers(const GenerateRequest& request, const ModelConfig& model,
                          Generation& generation) {
  RETURN_IF_ERROR(CheckMost("n", request.n(), kMostAnswers));
  RETURN_IF_ERROR(CheckMost("top_logprobs", request.top_logprobs(), kMostTopLogprobs));
  RETURN_IF_ERROR(CheckMost("prompt_logprobs", request.prompt_logprobs(), kMostPromptLogprobs));
  const auto& stop = request.stop_token_ids();
  if (stop.size() > kMostStopTokens) {
    return absl::InvalidArgumentError(absl::StrCat("stop_token_ids has ", stop.size(),
                                                   " tokens: send at most ", kMostStopTokens));
  }
  RETURN_IF_ERROR(CheckIds("stop_token_ids", stop, model.vocab));
  RETURN_IF_ERROR(
      CheckForced(request, model.vocab, generation.prompt.max_new_tokens, generation.sampling));
  generation.answers = request.n() == 0 ? 1 : request.n();
  generation.sampling.top_logprobs = request.top_logprobs();
  if (request.has_prompt_logprobs()) generation.prompt_logprobs = request.prompt_logprobs();
  generation.priority = request.priority();
  std::vector<uint32_t>& masked = generation.sampling.masked_tokens;
  masked.assign(stop.begin(), stop.end());
  masked.insert(masked.end(), model.eos_token_ids.begin(), model.eos_token_ids.end());
  generation.end_tokens = masked;
  if (request.ignore_eos()) generation.end_tokens.resize(stop.size());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Generation>> CheckRequest(const GenerateRequest& request,
                                                         const ModelConfig& model, int64_t max_len,
                                                         const BlendConfig& defaults,
                                                         bool blend_enabled) {
  auto generation = std::make_unique<Generation>();
  generation->request_id = request.request_id();
  generation->prompt.request_id = request.request_id();
  int64_t tokens = 0;
  RETURN_IF_ERROR(CheckSegments(request, model.vocab, generation->prompt, tokens));
  RETURN_IF_ERROR(CheckLength(request, tokens, max_len, generation->prompt));
  RETURN_IF_ERROR(CheckBlend(request, defaults, blend_enabled, generation->prompt));
  RETURN_IF_ERROR(CheckSampling(request.sampling(), model.vocab, generation->prompt.max_new_tokens,
                                generation->sampling));
  RETURN_IF_ERROR(CheckAnswers(request, model, *generation));
  generation->prompt.salt = request.cache_salt();
  return generation;
}

absl::StatusOr<std::unique_ptr<ChunkWork>> CheckRequest(
    const worker::v1::PrefillChunkRequest& request, const ModelConfig& model, int64_t max_len) {
  const auto& ids = request.segment().token_ids();
  if (ids.empty()) {
    return absl::InvalidArgumentError("segment is empty; send at least one token");
  }
  if (ids.size() > max_len - 1) {
    return absl::InvalidArgumentError(absl::StrCat("segment has ", ids.size(),
                                                   " tokens, but a chunk may have ", max_len - 1,
                                                   ": cut the text into shorter ones"));
  }
  RETURN_IF_ERROR(CheckIds("segment", ids, model.vocab));
  auto work = std::make_unique<ChunkWork>();
  work->request_id = request.request_id();
  work->tokens.assign(ids.begin(), ids.end());
  work->salt = request.cache_salt();
  return work;
}

}  // namespace tessera
