// Attention that also says how much of it each slot got.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_SCORED_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_SCORED_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// out = softmax(q k^T / sqrt(head_dim)) v. Row i of q (rotated, [n][heads * head_dim]) sees the
// slots 0 .. positions[i]; positions, on the device, ascend, and the last is last_position. Slots
// past it are not read. And scores[slot] += its mean probability over rows and heads; or,
// `by_value_norm`, the sum over heads of the root mean square of its probability over rows times
// the norm of its V in that head. slots, the length of scores, is more than last_position.
//
// For the last rows of a prompt, a few hundred at most: the keys are cut into runs over all
// multiprocessors and the probabilities are made a second time from the keys once their sums are
// known; the time of both grows with n, the workspace with n and slots. The same call gives the
// same bits on one kind of device; how the keys are cut depends on its number of multiprocessors.
//
// head_dim: 64, 80, 96, 128 or 256; at most 64 query heads for each KV head. q, out, K, V and the
// workspace of AttendScoredWorkspace() bytes begin at multiples of 16 bytes.
void AttendScored(Bf16Rows q, const int32_t* positions, int32_t last_position, const KvView& kv,
                  bool by_value_norm, Bf16Rows out, float* scores, int64_t slots, void* workspace,
                  cudaStream_t stream);

// Bytes, on the current device.
size_t AttendScoredWorkspace(int64_t n, int heads, int head_dim, int64_t slots);

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_SCORED_H_
