// The merge of rows whose keys were split among thread blocks (Flash-Decoding; Dao et al., 2023).
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_MERGE_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_MERGE_CUH_

#include <cmath>
#include <cstdint>

#include "gpu_worker/device/cuda/attention_task.cuh"

namespace tessera::cuda::attention {

// Merging thread blocks: a warp for each row.
constexpr int kMergeRows = 8;
constexpr int kMergeThreads = kMergeRows * 32;

// Most parts that a tile's keys are cut in.
constexpr int kMostParts = kMergeThreads;

// One warp writes row `row` of a tile, packed row `packed` of the task, from the tile's parts in
// the workspace, slots[0..parts - 1]:
//   out = sum of 2^(max - top) * partial, over the same sum of totals.
template <int kHeadDim>
__device__ void MergeRow(const Task& task, int32_t kv_head, int32_t packed, int tile_rows, int row,
                         const int32_t* slots, int parts) {
  const int lane = threadIdx.x % 32;
  float top = -INFINITY;
  for (int part = lane; part < parts; part += 32) {
    top = fmaxf(top, task.partial_state[slots[part] * tile_rows + row].x);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));

  float2 sums[(kHeadDim + 63) / 64] = {};
  float total = 0;
#pragma unroll 8
  for (int part = 0; part < parts; ++part) {
    const int64_t slot_row = slots[part] * tile_rows + row;
    const float2 state = task.partial_state[slot_row];
    const float scale = Exp2((state.x - top) * task.scale);  // 0 if the part saw nothing
    total += state.y * scale;
#pragma unroll
    for (int d = 0; d < (kHeadDim + 63) / 64; ++d) {
      const int column = d * 64 + lane * 2;
      if (column >= kHeadDim) break;
      const float2 partial =
          *reinterpret_cast<const float2*>(task.partial + slot_row * kHeadDim + column);
      sums[d].x += partial.x * scale;
      sums[d].y += partial.y * scale;
    }
  }
  const int64_t head = static_cast<int64_t>(kv_head) * task.group + packed % task.group;
  auto* out = task.out + packed / task.group * task.out_stride + head * kHeadDim;
#pragma unroll
  for (int d = 0; d < (kHeadDim + 63) / 64; ++d) {
    const int column = d * 64 + lane * 2;
    if (column >= kHeadDim) break;
    *reinterpret_cast<uint32_t*>(out + column) = PackBf16(sums[d].x / total, sums[d].y / total);
  }
}

}  // namespace tessera::cuda::attention

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_MERGE_CUH_
