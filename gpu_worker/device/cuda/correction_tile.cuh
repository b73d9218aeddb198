// A tile of kTileCols columns of a product of two matrices in shared memory, both with the depth
// along their rows, by two threads a row: by wgmma on Hopper, by mma.sync elsewhere.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_TILE_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_TILE_CUH_

#include "gpu_worker/device/cuda/correction_device.cuh"
#include "gpu_worker/device/cuda/correction_wgmma.cuh"

namespace tessera::cuda {

// A thread's part of the tile: numbers 2 i and 2 i + 1 of quad q stand at row Row(q) + 8 i, columns
// Col(q) and the next. The first ten quads share rows and half of the columns, and so do the
// others.
struct TileSums {
  float quads[20][4] = {};

#if TESSERA_CORRECTION_WGMMA
  __device__ static int Row(int) { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4; }
  __device__ static int Col(int q) { return q * 8 + threadIdx.x % 4 * 2; }
#else
  // A warp makes 32 x 80.
  __device__ static int Row(int q) {
    return threadIdx.x / 64 * 32 + q / 10 * 16 + threadIdx.x % 32 / 4;
  }
  __device__ static int Col(int q) {
    return threadIdx.x / 32 % 2 * 80 + q % 10 * 8 + threadIdx.x % 4 * 2;
  }
#endif
};

#if TESSERA_CORRECTION_WGMMA

// After stores to shared memory, before the barrier that comes before products of what was stored.
__device__ inline void BeforeBarrier() { FenceForProducts(); }

__device__ inline void BeginTile() { BeginProducts(); }

// sums += rows cols^T over a whole row's depth. Products are made between BeginTile and EndTile;
// what they read may be overwritten after EndTile.
template <int kRowBytes>
__device__ inline void MultiplyTile(TileSums& sums, uint32_t rows, uint32_t cols) {
  const uint64_t a = MatrixDescriptor<kRowBytes>(rows + threadIdx.x / 128 * 64 * kRowBytes);
  const uint64_t b = MatrixDescriptor<kRowBytes>(cols);
#pragma unroll
  for (int step = 0; step < kRowBytes / 32; ++step) {
    Multiply64x160(sums.quads, a + step * 2, b + step * 2);
  }
}

__device__ inline void CommitTile() { CommitProducts(); }
__device__ inline void EndTile() { WaitProducts(); }

#else

__device__ inline void BeforeBarrier() {}
__device__ inline void BeginTile() {}

template <int kRowBytes>
__device__ inline void MultiplyTile(TileSums& sums, uint32_t rows, uint32_t cols) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp / 2 * 32, warp_col = warp % 2 * 80;
#pragma unroll
  for (int part = 0; part < kRowBytes / 16; part += 2) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      LoadFragments(a[m],
                    Swizzled<kRowBytes>(rows, warp_row + m * 16 + lane % 16, part + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < 5; ++n) {
      uint32_t b[4];
      LoadFragments(b, Swizzled<kRowBytes>(cols, warp_col + n * 16 + lane % 8 + lane / 16 * 8,
                                           part + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        MultiplyAdd(sums.quads[m * 10 + 2 * n], a[m], b[0], b[1]);
        MultiplyAdd(sums.quads[m * 10 + 2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

__device__ inline void CommitTile() {}
__device__ inline void EndTile() {}

#endif  // TESSERA_CORRECTION_WGMMA

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_TILE_CUH_
