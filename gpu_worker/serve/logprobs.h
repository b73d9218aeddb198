// Probabilities of tokens from a row of logits.
#ifndef TESSERA_GPU_WORKER_SERVE_LOGPROBS_H_
#define TESSERA_GPU_WORKER_SERVE_LOGPROBS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace tessera {

struct TokenLogprob {
  uint32_t id = 0;
  // Natural logarithm of its probability by the logits as they are.
  float logprob = 0;
};

// The ids of the `count` largest logits (all, if there are fewer), largest first; of equal ones the
// lower id comes first. One pass over the row, which is not sorted.
std::vector<uint32_t> Likeliest(absl::Span<const float> logits, size_t count);

// What it takes to say the logprob of any token of one row. The row must outlive it.
class RowLogprobs {
 public:
  explicit RowLogprobs(absl::Span<const float> logits);

  TokenLogprob Of(uint32_t id) const;
  // Of the `count` likeliest, in the order of Likeliest.
  std::vector<TokenLogprob> Top(size_t count) const;

 private:
  const absl::Span<const float> logits_;
  double log_sum_ = 0;  // of exp(logits)
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_LOGPROBS_H_
