// The rows of a consuming warpgroup of the Hopper kernel: products by wgmma, softmax in registers.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_WGMMA_TILE_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_WGMMA_TILE_CUH_

#include <cmath>
#include <cstdint>

#include "gpu_worker/device/cuda/attention_hopper.cuh"
#include "gpu_worker/device/cuda/attention_task.cuh"
#include "gpu_worker/device/cuda/attention_wgmma_load.cuh"

namespace tessera::cuda::attention {

// A consuming warpgroup's rows. A thread has parts of the rows lane / 4 of its warp's 16 and of 8
// below; see Wgmma.
template <int kHeadDim>
struct GroupTile {
  float scores[kTileKeys / 2];
  uint32_t probabilities[kTileKeys / 16][4];
  float sums[kHeadDim / 2];
  float max[2];
  float total[2];  // of the thread's own columns
  float keep[2];   // what the last softmax makes of earlier sums
  int32_t position[2];

  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) sums[i] = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      max[i] = -INFINITY;
      total[i] = 0;
    }
  }

  // Issues scores = q k^T.
  __device__ void Score(uint32_t q, uint32_t k) {
    using S = Shape<kHeadDim>;
    WgmmaFence();
#pragma unroll
    for (int d = 0; d < kHeadDim / 16; ++d) {
      Wgmma<kTileKeys>::MultiplyShared(scores,
                                       Descriptor(q + d / 4 * S::kQueryPart + d % 4 * 32, 0),
                                       Descriptor(k + d / 4 * S::kKeyPart + d % 4 * 32, 0), d > 0);
    }
    WgmmaCommit();
  }

  // Issues sums += probabilities * v.
  __device__ void AddValues(uint32_t v) {
    using S = Shape<kHeadDim>;
    WgmmaFence();
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      Wgmma<kHeadDim>::MultiplyRegisters(sums, probabilities[n],
                                         Descriptor(v + n * 16 * kRowBytes, S::kKeyPart));
    }
    WgmmaCommit();
  }

  // Hides the keys that a row does not see; first_key: of the tile.
  __device__ void Mask(int32_t first_key) {
    const int32_t first = first_key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) {
      if (first + i / 4 * 8 + i % 2 > position[i / 2 % 2]) scores[i] = -INFINITY;
    }
  }

  // Turns scores into exp2((score - max) * scale), with keep for what was summed before.
  template <bool kMasked>
  __device__ void Softmax(float scale) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float top = max[row];
#pragma unroll
      for (int i = 2 * row; i < kTileKeys / 2; i += 4) {
        top = fmaxf(top, fmaxf(scores[i], scores[i + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      // A row that has seen no key yet has max -inf: any finite number makes its terms 0.
      const float shift = kMasked && top == -INFINITY ? 0 : top * scale;
      keep[row] = Exp2(max[row] * scale - shift);
      max[row] = top;
      float sum = 0;
#pragma unroll
      for (int i = 2 * row; i < kTileKeys / 2; i += 4) {
        scores[i] = Exp2(scores[i] * scale - shift);
        scores[i + 1] = Exp2(scores[i + 1] * scale - shift);
        sum += scores[i] + scores[i + 1];
      }
      total[row] = total[row] * keep[row] + sum;
    }
  }

  __device__ void RoundProbabilities() {
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        probabilities[n][i] = PackBf16(scores[n * 8 + i * 2], scores[n * 8 + i * 2 + 1]);
      }
    }
  }

  __device__ void Rescale() {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) sums[i] *= keep[i / 2 % 2];
  }

  __device__ void JoinTotals() {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      total[row] += __shfl_xor_sync(~0u, total[row], 1);
      total[row] += __shfl_xor_sync(~0u, total[row], 2);
    }
  }
};

}  // namespace tessera::cuda::attention

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_WGMMA_TILE_CUH_
