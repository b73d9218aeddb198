#include "gpu_worker/serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "glog/logging.h"

namespace tessera {

Sampler::Sampler(const SamplingParams& params, absl::Span<const std::vector<uint32_t>> prompt)
    : params_(params), random_(params.seed) {
  if (params.repetition_penalty == 1) return;
  for (const std::vector<uint32_t>& segment : prompt) {
    for (uint32_t id : segment) seen_[id] = 0;
  }
}

bool Sampler::penalizes_answer() const {
  return params_.repetition_penalty != 1 || params_.frequency_penalty != 0 ||
         params_.presence_penalty != 0;
}

SampledToken Sampler::Next(absl::Span<const float> logits) {
  const uint32_t id =
      drawn_ < params_.forced.size() ? params_.forced[drawn_] : Choose(Adjust(logits));
  ++drawn_;
  if (penalizes_answer()) ++seen_[id];
  const RowLogprobs row(logits);
  return {id, row.Of(id).logprob, row.Top(params_.top_logprobs)};
}

uint32_t Sampler::Choose(absl::Span<const float> logits) {
  if (params_.temperature > 0) return Draw(logits);
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

absl::Span<const float> Sampler::Adjust(absl::Span<const float> logits) {
  if (params_.logit_bias.empty() && seen_.empty() && !masks()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (const auto& [id, bias] : params_.logit_bias) {
    CHECK_LT(id, adjusted_.size());
    adjusted_[id] += bias;
  }
  for (const auto& [id, times] : seen_) {
    CHECK_LT(id, adjusted_.size());
    float& x = adjusted_[id];
    x = x > 0 ? x / params_.repetition_penalty : x * params_.repetition_penalty;
    x -= params_.frequency_penalty * static_cast<float>(times);
    if (times > 0) x -= params_.presence_penalty;
  }
  if (masks()) {
    for (uint32_t id : params_.masked_tokens) {
      if (id >= adjusted_.size()) continue;  // some models name end tokens that they do not have
      adjusted_[id] = -std::numeric_limits<float>::infinity();
    }
  }
  return adjusted_;
}

double Sampler::WeightOf(float logit, float top) const {
  return std::exp((static_cast<double>(logit) - top) / params_.temperature);
}

uint32_t Sampler::Draw(absl::Span<const float> logits) {
  const float top = *std::max_element(logits.begin(), logits.end());
  if (std::isinf(top)) return 0;  // all are masked
  if (!keeps_all()) {
    Truncate(logits, top);
    return ids_.empty() ? 0 : ids_[DrawByWeight()];  // empty: NaN stands first
  }
  weights_.resize(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) weights_[id] = WeightOf(logits[id], top);
  return static_cast<uint32_t>(DrawByWeight());
}

size_t Sampler::DrawByWeight() {
  double target = Uniform() * std::accumulate(weights_.begin(), weights_.end(), 0.0);
  size_t chosen = 0;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    chosen = i;
    target -= weights_[i];
    if (target < 0) break;
  }
  return chosen;
}

void Sampler::Truncate(absl::Span<const float> logits, float top) {
  auto less_likely = [&](uint32_t a, uint32_t b) {
    return logits[a] != logits[b] ? logits[a] < logits[b] : a > b;
  };
  double mass = 0;  // that top_p is a share of
  std::vector<uint32_t> candidates;
  if (params_.top_k > 0) {
    candidates = Likeliest(logits, params_.top_k);
    for (uint32_t id : candidates) mass += WeightOf(logits[id], top);
  } else {
    weights_.resize(logits.size());
    for (size_t id = 0; id < logits.size(); ++id) mass += weights_[id] = WeightOf(logits[id], top);
    // All that are lighter than this weigh less together than what top_p leaves out.
    const double floor =
        std::max<double>(params_.min_p, (1.0 - params_.top_p) * mass / 2 / logits.size());
    for (uint32_t id = 0; id < logits.size(); ++id) {
      if (weights_[id] >= floor) candidates.push_back(id);
    }
    std::make_heap(candidates.begin(), candidates.end(), less_likely);
  }
  KeepNone();
  for (size_t left = candidates.size(); left > 0; --left) {
    uint32_t id = candidates[ids_.size()];
    if (params_.top_k == 0) {
      std::pop_heap(candidates.begin(), candidates.begin() + left, less_likely);
      id = candidates[left - 1];
    }
    if (!Keep(id, WeightOf(logits[id], top), mass)) break;
  }
}

void Sampler::KeepNone() {
  ids_.clear();
  weights_.clear();
  reached_ = 0;
}

bool Sampler::Keep(uint32_t id, double weight, double mass) {
  const bool complete = params_.top_p < 1 && reached_ >= params_.top_p * mass;
  if (!ids_.empty() && (complete || weight < params_.min_p)) return false;
  ids_.push_back(id);
  weights_.push_back(weight);
  reached_ += weight;
  return true;
}

}  // namespace tessera
