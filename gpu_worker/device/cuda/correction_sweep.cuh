// The inverse of a symmetric positive definite matrix by one block of threads, which holds it in
// registers: the sweep operator (Goodnight 1979; Gauss-Jordan elimination that keeps the matrix
// symmetric), so that its lower half is enough.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_SWEEP_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_SWEEP_CUH_

#include "gpu_worker/device/cuda/correction_device.cuh"

namespace tessera::cuda {

// The matrix is cut into kSweepTiles^2 tiles; a thread has one on or below the diagonal.
constexpr int kSweepTiles = 20;
constexpr int kSweepThreads = 224;  // whole warps for 20 * 21 / 2 tiles

// A column of the matrix on its way to all threads, twice, so that a step needs one barrier. Fours
// of rows stand as [four of a tile][tile], so that threads with tiles side by side meet no bank
// conflict.
template <int kPer>
struct SweepShared {
  alignas(16) float column[2][kSweepTiles * kPer];
  float pivot[2];

  static __device__ int At(int tile, int row) {
    return row / 4 * (kSweepTiles * 4) + tile * 4 + row % 4;
  }
};

// A thread's tile of kPer x kPer numbers.
template <int kPer>
struct Sweep {
  static_assert(16 % kPer == 0 && kPer % 4 == 0);

  float a[kPer][kPer];
  int tile_row = 0;
  int tile_col = 0;
  bool active;

  __device__ Sweep() : active(threadIdx.x < kSweepTiles * (kSweepTiles + 1) / 2) {
    int left = active ? threadIdx.x : 0;  // a thread without a tile goes along with the first
    while (left > tile_row) left -= ++tile_row;
    tile_col = left;
  }

  // Reads a matrix of `side` rows, a multiple of 16; a unit matrix past them.
  __device__ void Load(const float* matrix, int64_t stride, int side) {
    const bool inside = active && tile_row * kPer < side && tile_col * kPer < side;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const float* from = matrix + (tile_row * kPer + i) * stride + tile_col * kPer;
#pragma unroll
      for (int j = 0; j < kPer; j += 4) {
        float4 four = {0, 0, 0, 0};
        if (inside) four = *reinterpret_cast<const float4*>(from + j);
        const float numbers[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          a[i][j + e] = inside || tile_row != tile_col || i != j + e ? numbers[e] : 1;
        }
      }
    }
  }

  // Puts the inverse's negative in the place of the leading `rows` rows and columns; the others
  // must be a unit matrix. False, for all threads, when a pivot is not positive.
  __device__ bool Run(int rows, SweepShared<kPer>& shared) {
    for (int block = 0; block < kSweepTiles; ++block) {
#pragma unroll
      for (int inner = 0; inner < kPer; ++inner) {
        const int step = block * kPer + inner;
        if (step >= rows) return true;
        if (!Step(block, inner, step % 2, shared)) return false;
      }
    }
    return true;
  }

  // Calls store(row, col, numbers) for runs of kPer numbers of the inverse, (row, col) and on.
  template <typename Store>
  __device__ void Each(Store store) const {
    if (!active) return;
    float numbers[kPer];
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
#pragma unroll
      for (int j = 0; j < kPer; ++j) numbers[j] = -a[i][j];
      store(tile_row * kPer + i, tile_col * kPer, numbers);
    }
    if (tile_row == tile_col) return;
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) numbers[i] = -a[i][j];
      store(tile_col * kPer + j, tile_row * kPer, numbers);
    }
  }

 private:
  // Sweeps row block * kPer + inner. The step is one subtraction for all numbers: the pivot's row
  // and column begin at zero, and in the column that is multiplied, -1 stands in the pivot's place.
  __device__ bool Step(int block, int inner, int side, SweepShared<kPer>& shared) {
    float* const column = shared.column[side];
    const bool in_col = active && tile_col == block, in_row = active && tile_row == block;
    if (in_col) {
#pragma unroll
      for (int i = 0; i < kPer; i += 4) {
        *reinterpret_cast<float4*>(column + shared.At(tile_row, i)) = {
            a[i][inner], a[i + 1][inner], a[i + 2][inner], a[i + 3][inner]};
      }
    }
    if (in_row && !in_col) {
#pragma unroll
      for (int j = 0; j < kPer; j += 4) {
        *reinterpret_cast<float4*>(column + shared.At(tile_col, j)) = {
            a[inner][j], a[inner][j + 1], a[inner][j + 2], a[inner][j + 3]};
      }
    }
    if (in_row && in_col) {
      shared.pivot[side] = a[inner][inner];
      column[shared.At(tile_row, inner)] = -1;
    }
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      if (i == inner) continue;
      a[i][inner] = in_col ? 0 : a[i][inner];
      a[inner][i] = in_row ? 0 : a[inner][i];
    }
    a[inner][inner] = in_row || in_col ? 0 : a[inner][inner];
    __syncthreads();
    const float pivot = shared.pivot[side];
    if (!(pivot > 0)) return false;
    const float share = __fdividef(1.0f, pivot);
    float left[kPer], right[kPer];
#pragma unroll
    for (int i = 0; i < kPer; i += 4) {
      *reinterpret_cast<float4*>(left + i) =
          *reinterpret_cast<const float4*>(column + shared.At(tile_row, i));
      *reinterpret_cast<float4*>(right + i) =
          *reinterpret_cast<const float4*>(column + shared.At(tile_col, i));
    }
#pragma unroll
    for (int j = 0; j < kPer; ++j) right[j] *= share;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
#pragma unroll
      for (int j = 0; j < kPer; ++j) a[i][j] -= left[i] * right[j];
    }
    return true;
  }
};

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_SWEEP_CUH_
