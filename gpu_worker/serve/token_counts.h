// How the tokens of a prompt got their KV.
#ifndef TESSERA_GPU_WORKER_SERVE_TOKEN_COUNTS_H_
#define TESSERA_GPU_WORKER_SERVE_TOKEN_COUNTS_H_

#include <cstdint>
#include <vector>

#include "gpu_worker/blend/blender.h"

namespace tessera {

// As worker.proto's PromptUsage: their sum is the prompt's length.
struct TokenCounts {
  int64_t exact = 0;
  int64_t blended = 0;
  int64_t recomputed = 0;
  int64_t computed = 0;
};

inline TokenCounts CountTokens(const std::vector<SegmentOutcome>& segments) {
  TokenCounts counts;
  for (const SegmentOutcome& segment : segments) {
    const int64_t reused = segment.cached_tokens - segment.recomputed_tokens;
    (segment.exact ? counts.exact : counts.blended) += reused;
    counts.recomputed += segment.recomputed_tokens;
    counts.computed += segment.tokens - segment.cached_tokens;
  }
  return counts;
}

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_TOKEN_COUNTS_H_
