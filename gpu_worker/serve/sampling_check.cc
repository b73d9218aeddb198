#include "gpu_worker/serve/sampling_check.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

constexpr int kMostBiases = 1024;
constexpr float kMostBias = 100;
constexpr float kMostPenalty = 2;

// Also for NaN, which is between nothing.
absl::Status CheckBetween(absl::string_view field, float value, float least, float most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ": set it between ", least, " and ", most));
}

absl::Status CheckPenalties(const worker::v1::SamplingOptions& options, SamplingParams& sampling) {
  RETURN_IF_ERROR(
      CheckBetween("presence_penalty", options.presence_penalty(), -kMostPenalty, kMostPenalty));
  RETURN_IF_ERROR(
      CheckBetween("frequency_penalty", options.frequency_penalty(), -kMostPenalty, kMostPenalty));
  const float repetition = options.repetition_penalty();
  if (!std::isfinite(repetition) || repetition < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("repetition_penalty is ", repetition, ": set it above 0 (1: off)"));
  }
  sampling.presence_penalty = options.presence_penalty();
  sampling.frequency_penalty = options.frequency_penalty();
  sampling.repetition_penalty = repetition == 0 ? 1.0f : repetition;
  return absl::OkStatus();
}

absl::Status CheckBiases(const worker::v1::SamplingOptions& options, int64_t vocab,
                         SamplingParams& sampling) {
  if (options.logit_bias_size() > kMostBiases) {
    return absl::InvalidArgumentError(absl::StrCat("logit_bias has ", options.logit_bias_size(),
                                                   " tokens: send at most ", kMostBiases));
  }
  for (const auto& [id, bias] : options.logit_bias()) {
    if (id >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias: token id ", id, " is not below the vocabulary's ", vocab));
    }
    RETURN_IF_ERROR(
        CheckBetween(absl::StrCat("logit_bias of token ", id), bias, -kMostBias, kMostBias));
    sampling.logit_bias.emplace_back(id, bias);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSampling(const worker::v1::SamplingOptions& options, int64_t vocab,
                           int64_t most_tokens, SamplingParams& sampling) {
  if (!std::isfinite(options.temperature()) || options.temperature() < 0) {
    return absl::InvalidArgumentError("temperature must be 0 or more");
  }
  RETURN_IF_ERROR(CheckBetween("top_p", options.top_p(), 0, 1));
  RETURN_IF_ERROR(CheckBetween("min_p", options.min_p(), 0, 1));
  RETURN_IF_ERROR(CheckPenalties(options, sampling));
  RETURN_IF_ERROR(CheckBiases(options, vocab, sampling));
  if (options.min_tokens() > most_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("min_tokens is ", options.min_tokens(),
                                                   ", but the answer may have ", most_tokens,
                                                   " tokens: lower min_tokens to that"));
  }
  sampling.temperature = options.temperature();
  sampling.top_p = options.top_p() == 0 ? 1.0f : options.top_p();
  sampling.top_k = options.top_k();
  sampling.min_p = options.min_p();
  sampling.min_tokens = options.min_tokens();
  sampling.seed = options.has_seed() ? options.seed() : std::random_device{}();
  return absl::OkStatus();
}

}  // namespace tessera
