#include "gpu_worker/serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tessera {

SampledToken Sampler::Next(absl::Span<const float> logits) {
  const auto best = std::max_element(logits.begin(), logits.end());
  const float top = *best;
  double sum = 0;
  for (float x : logits) sum += std::exp(x - top);
  const uint32_t id =
      params_.temperature > 0 ? Draw(logits) : static_cast<uint32_t>(best - logits.begin());
  return {id, static_cast<float>(logits[id] - top - std::log(sum))};
}

uint32_t Sampler::Draw(absl::Span<const float> logits) {
  std::vector<uint32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  size_t kept = ids.size();
  auto likelier = [&](uint32_t a, uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  if (params_.top_k > 0) kept = std::min<size_t>(kept, params_.top_k);
  if (kept < ids.size() || params_.top_p < 1) {
    std::partial_sort(ids.begin(), ids.begin() + kept, ids.end(), likelier);
  }
  const float top = *std::max_element(logits.begin(), logits.end());
  std::vector<double> weights(kept);
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    weights[i] = std::exp(static_cast<double>(logits[ids[i]] - top) / params_.temperature);
    sum += weights[i];
  }
  if (params_.top_p < 1) {  // the shortest run of likeliest tokens that reaches top_p
    double reached = 0;
    size_t i = 0;
    while (i < kept && reached < params_.top_p * sum) reached += weights[i++];
    kept = std::max<size_t>(i, 1);
    sum = reached;
  }
  double target = Uniform() * sum;
  for (size_t i = 0; i < kept; ++i) {
    target -= weights[i];
    if (target < 0) return ids[i];
  }
  return ids[kept - 1];
}

}  // namespace tessera
