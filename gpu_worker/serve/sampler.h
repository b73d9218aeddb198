// The next token from a row of logits.
#ifndef TESSERA_GPU_WORKER_SERVE_SAMPLER_H_
#define TESSERA_GPU_WORKER_SERVE_SAMPLER_H_

#include <cstdint>
#include <random>
#include <vector>

#include "absl/types/span.h"

namespace tessera {

struct SamplingParams {
  float temperature = 0;  // 0: greedy
  float top_p = 1;        // nucleus (Holtzman et al. 2020), (0, 1]
  uint32_t top_k = 0;     // 0: all
  uint64_t seed = 0;
};

struct SampledToken {
  uint32_t id = 0;
  float logprob =
      0;  // natural logarithm of its probability at temperature 1, before top_p and top_k
};

// One per request: the n-th token depends on the seed and on what was drawn before, never on other
// requests. Not thread-safe.
class Sampler {
 public:
  explicit Sampler(const SamplingParams& params) : params_(params), random_(params.seed) {}

  // Equal logits go to the lower id.
  SampledToken Next(absl::Span<const float> logits);

 private:
  uint32_t Draw(absl::Span<const float> logits);
  // A number in [0, 1) made from 53 bits: the same on every machine, as the standard's
  // distributions are not.
  double Uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

  const SamplingParams params_;
  std::mt19937_64 random_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_SAMPLER_H_
