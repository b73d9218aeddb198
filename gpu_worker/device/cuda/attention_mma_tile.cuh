// One warp's part of a tile of attention, with mma.sync m16n8k16: its query rows stay with the
// warp, their sums and softmax state in registers; K and V tiles lie in shared memory.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_MMA_TILE_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_MMA_TILE_CUH_

#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>

#include "gpu_worker/device/cuda/attention_task.cuh"

namespace tessera::cuda::attention {

// Copies 16 bytes to shared memory, or zeros.
__device__ inline void CopyAsync16(uint32_t to, const void* from, bool zero) {
  const int bytes = zero ? 0 : 16;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}

__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

__device__ inline void WaitForCopies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

__device__ inline void LoadMatrices(uint32_t from, uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

__device__ inline void LoadTransposed(uint32_t from, uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

__device__ inline void Multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// kRowMmas * 16 rows of a warp; thread `lane` has of each 16 the rows lane / 4 and lane / 4 + 8,
// and of each 8 columns the two from lane % 4 * 2 on. Rows in shared memory are 16 bytes longer
// than head_dim, an odd number of 16 bytes, so that the rows of a matrix lie in different banks.
template <int kHeadDim, int kRowMmas>
struct MmaTile {
  static constexpr int kKeys = 64;
  static constexpr int kPitch = (kHeadDim + 8) * 2;  // bytes of a row

  float scores[kRowMmas][kKeys / 8][4];
  float sums[kRowMmas][kHeadDim / 8][4];
  float max[kRowMmas][2];
  float total[kRowMmas][2];  // of the thread's own columns
  int32_t position[kRowMmas][2];

  __device__ void Clear() {
#pragma unroll
    for (int m = 0; m < kRowMmas; ++m) {
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[m][d][i] = 0;
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        max[m][i] = -INFINITY;
        total[m][i] = 0;
      }
    }
  }

  // scores = q k^T; q: the warp's rows, k: the tile of keys, in shared memory.
  __device__ void Score(uint32_t q, uint32_t k, int lane) {
    const uint32_t q_from = q + (lane % 16) * kPitch + lane / 16 * 16;
    const uint32_t k_from = k + (lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 16;
#pragma unroll
    for (int m = 0; m < kRowMmas; ++m) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[m][n][i] = 0;
      }
    }
#pragma unroll
    for (int d = 0; d < kHeadDim / 16; ++d) {
      uint32_t a[kRowMmas][4];
#pragma unroll
      for (int m = 0; m < kRowMmas; ++m) LoadMatrices(q_from + m * 16 * kPitch + d * 32, a[m]);
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        LoadMatrices(k_from + n * 16 * kPitch + d * 32, b);
#pragma unroll
        for (int m = 0; m < kRowMmas; ++m) {
          Multiply(scores[m][2 * n], a[m], b[0], b[1]);
          Multiply(scores[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // Hides the keys that a row does not see; first_key: of the tile.
  __device__ void Mask(int32_t first_key, int lane) {
#pragma unroll
    for (int m = 0; m < kRowMmas; ++m) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int32_t key = first_key + n * 8 + lane % 4 * 2 + i % 2;
          if (key > position[m][i / 2]) scores[m][n][i] = -INFINITY;
        }
      }
    }
  }

  // Turns scores into exp2((score - max) * scale) and brings sums and total to the new max.
  __device__ void Softmax(float scale) {
#pragma unroll
    for (int m = 0; m < kRowMmas; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float top = max[m][i];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          top = fmaxf(top, fmaxf(scores[m][n][2 * i], scores[m][n][2 * i + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        // A row that has seen no key yet has max -inf: any finite number makes its terms 0.
        const float shift = top == -INFINITY ? 0 : top * scale;
        const float keep = Exp2(max[m][i] * scale - shift);
        max[m][i] = top;
        total[m][i] *= keep;
#pragma unroll
        for (int d = 0; d < kHeadDim / 8; ++d) {
          sums[m][d][2 * i] *= keep;
          sums[m][d][2 * i + 1] *= keep;
        }
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int j = 2 * i; j < 2 * i + 2; ++j) {
            scores[m][n][j] = Exp2(scores[m][n][j] * scale - shift);
            total[m][i] += scores[m][n][j];
          }
        }
      }
    }
  }

  // sums += probabilities (in scores) * v.
  __device__ void AddValues(uint32_t v, int lane) {
    const uint32_t v_from = v + (lane % 16) * kPitch + lane / 16 * 16;
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      uint32_t a[kRowMmas][4];
#pragma unroll
      for (int m = 0; m < kRowMmas; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* pair = &scores[m][2 * n + i / 2][i % 2 * 2];
          a[m][i] = PackBf16(pair[0], pair[1]);
        }
      }
#pragma unroll
      for (int d = 0; d < kHeadDim / 16; ++d) {
        uint32_t b[4];
        LoadTransposed(v_from + n * 16 * kPitch + d * 32, b);
#pragma unroll
        for (int m = 0; m < kRowMmas; ++m) {
          Multiply(sums[m][2 * d], a[m], b[0], b[1]);
          Multiply(sums[m][2 * d + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // Makes total that of the whole row.
  __device__ void JoinTotals() {
#pragma unroll
    for (int m = 0; m < kRowMmas; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        total[m][i] += __shfl_xor_sync(~0u, total[m][i], 1);
        total[m][i] += __shfl_xor_sync(~0u, total[m][i], 2);
      }
    }
  }
};

}  // namespace tessera::cuda::attention

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_MMA_TILE_CUH_
