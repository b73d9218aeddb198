// What the kernels of rows.cu, place.cu and gemm_few.cu share: 16-byte pieces of rows and sums over
// a block.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ROWS_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ROWS_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/kernels.h"
#include "gpu_worker/device/cuda/launch.cuh"

namespace tessera::cuda {

// N numbers that are read and written as one.
template <typename T, int N>
struct alignas(sizeof(T) * N) Piece {
  static constexpr int kSize = N;
  T at[N];
};
using Bf16Piece = Piece<__nv_bfloat16, 8>;
using F32Piece = Piece<float, 4>;

// The same, in floats.
template <int N>
struct Floats {
  float at[N];
};

template <int N>
__device__ inline Floats<N> Widened(const Piece<__nv_bfloat16, N>& x) {
  Floats<N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) y.at[i] = __bfloat162float(x.at[i]);
  return y;
}

template <int N>
__device__ inline Piece<__nv_bfloat16, N> Narrowed(const Floats<N>& x) {
  Piece<__nv_bfloat16, N> y;
  if constexpr (N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const __nv_bfloat162 both = __floats2bfloat162_rn(x.at[i], x.at[i + 1]);
      y.at[i] = both.x;
      y.at[i + 1] = both.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) y.at[i] = __float2bfloat16_rn(x.at[i]);
  }
  return y;
}

template <typename P, typename T>
__device__ inline P Load(const T* from) {
  return *reinterpret_cast<const P*>(from);
}

template <typename P, typename T>
__device__ inline void Store(T* to, const P& piece) {
  *reinterpret_cast<P*>(to) = piece;
}

// Eight floats, in two reads.
__device__ inline Floats<8> Load8(const float* from) {
  const F32Piece a = Load<F32Piece>(from), b = Load<F32Piece>(from + 4);
  return {a.at[0], a.at[1], a.at[2], a.at[3], b.at[0], b.at[1], b.at[2], b.at[3]};
}

__device__ inline void Store8(float* to, const Floats<8>& x) {
  Store(to, F32Piece{x.at[0], x.at[1], x.at[2], x.at[3]});
  Store(to + 4, F32Piece{x.at[4], x.at[5], x.at[6], x.at[7]});
}

// Ends the process when a caller's shapes do not fit.
inline void RequireShape(const char* op, bool fits) {
  if (fits) return;
  std::fprintf(stderr, "event=cuda_failed op=%s error=\"shape\"\n", op);
  std::fflush(stderr);
  std::abort();
}

constexpr int64_t kMostGridY = 65535;

inline int64_t CeilOf(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ROWS_CUH_
