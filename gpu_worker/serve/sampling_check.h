// How a request wants its tokens drawn, from the wire.
#ifndef TESSERA_GPU_WORKER_SERVE_SAMPLING_CHECK_H_
#define TESSERA_GPU_WORKER_SERVE_SAMPLING_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "gpu_worker/serve/sampler.h"
#include "proto/worker.pb.h"

namespace tessera {

// Fills what SamplingOptions says; a seed is drawn where none is given. INVALID_ARGUMENT names the
// field and says what to change. vocab: tokens that the model has; most_tokens: that may be
// sampled.
absl::Status CheckSampling(const worker::v1::SamplingOptions& options, int64_t vocab,
                           int64_t most_tokens, SamplingParams& sampling);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_SAMPLING_CHECK_H_
