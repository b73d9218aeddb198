#include "gpu_worker/serve/request_check.h"

#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

using worker::v1::GenerateRequest;

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
    for (uint32_t id : ids) {
      if (id < vocab) continue;
      return absl::InvalidArgumentError(absl::StrCat("segments[", i, "]: token id ", id,
                                                     " is not below the vocabulary's ", vocab));
    }
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
  prompt.exact = !blend_enabled || blend.mode() == worker::v1::EXACT;
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

absl::Status CheckSampling(const GenerateRequest& request, SamplingParams& sampling) {
  const auto& from = request.sampling();
  if (!std::isfinite(from.temperature()) || from.temperature() < 0) {
    return absl::InvalidArgumentError("temperature must be 0 or more");
  }
  if (!(from.top_p() >= 0 && from.top_p() <= 1)) {
    return absl::InvalidArgumentError("top_p must be above 0 and at most 1");
  }
  sampling.temperature = from.temperature();
  sampling.top_p = from.top_p() == 0 ? 1.0f : from.top_p();
  sampling.top_k = from.top_k();
  sampling.seed = from.has_seed() ? from.seed() : std::random_device{}();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Generation>> CheckRequest(const GenerateRequest& request,
                                                         const ModelConfig& model, int64_t max_len,
                                                         const BlendConfig& defaults,
                                                         bool blend_enabled) {
  auto generation = std::make_unique<Generation>();
  generation->request_id = request.request_id();
  int64_t tokens = 0;
  RETURN_IF_ERROR(CheckSegments(request, model.vocab, generation->prompt, tokens));
  RETURN_IF_ERROR(CheckLength(request, tokens, max_len, generation->prompt));
  RETURN_IF_ERROR(CheckBlend(request, defaults, blend_enabled, generation->prompt));
  RETURN_IF_ERROR(CheckSampling(request, generation->sampling));
  generation->prompt.salt = request.cache_salt();
  generation->end_tokens.assign(request.stop_token_ids().begin(), request.stop_token_ids().end());
  if (!request.ignore_eos()) {
    generation->end_tokens.insert(generation->end_tokens.end(), model.eos_token_ids.begin(),
                                  model.eos_token_ids.end());
  }
  return generation;
}

}  // namespace tessera
