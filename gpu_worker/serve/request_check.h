// From the wire to work that the engine may run.
#ifndef TESSERA_GPU_WORKER_SERVE_REQUEST_CHECK_H_
#define TESSERA_GPU_WORKER_SERVE_REQUEST_CHECK_H_

#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/chunk_work.h"
#include "gpu_worker/serve/generation.h"
#include "proto/worker.pb.h"

namespace tessera {

// INVALID_ARGUMENT names the field and says what to change. The listener and the cancel flag are
// the caller's to set.
absl::StatusOr<std::unique_ptr<Generation>> CheckRequest(const worker::v1::GenerateRequest& request,
                                                         const ModelConfig& model, int64_t max_len,
                                                         const BlendConfig& defaults,
                                                         bool blend_enabled);

// The same for a chunk; `done` and the cancel flag are the caller's.
absl::StatusOr<std::unique_ptr<ChunkWork>> CheckRequest(
    const worker::v1::PrefillChunkRequest& request, const ModelConfig& model, int64_t max_len);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_REQUEST_CHECK_H_
