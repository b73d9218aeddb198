// The inverse of kernel(picked, picked) + noise I, by Gauss-Jordan elimination in place. The matrix
// is symmetric and its smallest eigenvalue is at least `noise`, so no pivoting is needed; pivots
// are the squares of a Cholesky factor's diagonal, and one that is not positive fails the chunk.
//
// Up to kSmallInverse rows one block of threads holds the whole matrix in registers. Larger ones
// are eliminated kInverseBlock rows at a time.
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/correction_device.cuh"
#include "gpu_worker/device/cuda/correction_sweep.cuh"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 256;
// Threads of a product stand in a square; thread (y, x) has rows y + kSide i and columns x + kSide
// j.
constexpr int kSide = 16;

// 8 numbers of the inverse, as sums of two bf16.
__device__ inline void StoreInverse(const CorrectionDevice& device, int64_t at,
                                    const float (&numbers)[8]) {
  uint32_t high[4], low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float x = numbers[2 * i], y = numbers[2 * i + 1];
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(x, y);
    const float2 back = __bfloat1622float2(rounded);
    const __nv_bfloat162 rest = __floats2bfloat162_rn(x - back.x, y - back.y);
    high[i] = *reinterpret_cast<const uint32_t*>(&rounded);
    low[i] = *reinterpret_cast<const uint32_t*>(&rest);
  }
  *reinterpret_cast<uint4*>(device.high + at) = {high[0], high[1], high[2], high[3]};
  *reinterpret_cast<uint4*>(device.low + at) = {low[0], low[1], low[2], low[3]};
}

constexpr int kSmallPer = kSmallInverse / kSweepTiles;

__global__ void __launch_bounds__(kSweepThreads, 2)
    InvertSmall(const __grid_constant__ CorrectionDevice device) {
  __shared__ SweepShared<kSmallPer> shared;
  const ChunkOnDevice chunk = device.chunks[blockIdx.x];
  if (chunk.blocked) return;
  Sweep<kSmallPer> sweep;
  sweep.Load(device.matrix + blockIdx.y * device.matrix_per_layer + chunk.matrix, chunk.side,
             chunk.side);
  if (!sweep.Run(chunk.picked_count, shared)) {
    if (threadIdx.x == 0) {
      device.failed[(device.first_layer + blockIdx.y) * int64_t{device.chunk_count} + blockIdx.x] =
          1;
    }
    return;
  }
  const int64_t first = blockIdx.y * device.inverse_per_layer + chunk.inverse;
  sweep.Each([&](int row, int col, const float(&numbers)[kSmallPer]) {
    if (row < chunk.cols && col < chunk.cols) {
      StoreInverse(device, first + int64_t{row} * chunk.cols + col, numbers);
    }
  });
}

// A chunk whose inverse is made in blocks: its matrix and the inverse of the step's pivot block.
// Grids of the kernels below are (block column, block row, layer * chunks + chunk).
struct Blocked {
  const ChunkOnDevice chunk;
  float* matrix;
  float* pivot;
  int32_t* failed;
  int blocks = 0;
  int layer;

  __device__ explicit Blocked(const CorrectionDevice& device)
      : chunk(device.chunks[blockIdx.z % device.chunk_count]),
        layer(blockIdx.z / device.chunk_count) {
    matrix = device.matrix + layer * device.matrix_per_layer + chunk.matrix;
    pivot = device.pivot + blockIdx.z * int64_t{kInverseBlock * kInverseBlock};
    failed = device.failed + device.first_layer * int64_t{device.chunk_count} + blockIdx.z;
    if (chunk.blocked) blocks = chunk.side / kInverseBlock;
  }

  __device__ int64_t Stride() const { return chunk.side; }
  __device__ float* Block(int row, int column) const {
    return matrix + row * kInverseBlock * Stride() + column * kInverseBlock;
  }
};

constexpr int kBlockPer = kInverseBlock / kSide;

__global__ void __launch_bounds__(kSweepThreads, 2)
    InvertPivot(const __grid_constant__ CorrectionDevice device, int step) {
  constexpr int kPer = kInverseBlock / kSweepTiles;
  __shared__ SweepShared<kPer> shared;
  const Blocked at(device);
  if (step >= at.blocks || *at.failed) return;
  Sweep<kPer> sweep;
  sweep.Load(at.Block(step, step), at.Stride(), kInverseBlock);
  if (!sweep.Run(kInverseBlock, shared)) {
    if (threadIdx.x == 0) *at.failed = 1;
    return;
  }
  sweep.Each([&](int row, int col, const float(&numbers)[kPer]) {
    float* const to = at.pivot + row * kInverseBlock + col;
#pragma unroll
    for (int i = 0; i < kPer; i += 4) {
      *reinterpret_cast<float4*>(to + i) = {numbers[i], numbers[i + 1], numbers[i + 2],
                                            numbers[i + 3]};
    }
  });
}

// sums = a b of two blocks with their row strides.
__device__ void MultiplyBlocks(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                               float (&sums)[kBlockPer][kBlockPer]) {
  constexpr int kDepth = 16;
  __shared__ float left[kDepth][kInverseBlock + 1];
  __shared__ float right[kDepth][kInverseBlock];
  const int y = threadIdx.x / kSide, x = threadIdx.x % kSide;
#pragma unroll
  for (int i = 0; i < kBlockPer * kBlockPer; ++i) sums[i / kBlockPer][i % kBlockPer] = 0;
  for (int first = 0; first < kInverseBlock; first += kDepth) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kBlockPer; ++i) {
      const int row = i * kSide + y;
      left[x][row] = a[row * a_stride + first + x];
      const int at = i * kThreads + threadIdx.x;
      right[at / kInverseBlock][at % kInverseBlock] =
          b[(first + at / kInverseBlock) * b_stride + at % kInverseBlock];
    }
    __syncthreads();
#pragma unroll
    for (int depth = 0; depth < kDepth; ++depth) {
      float row[kBlockPer];
#pragma unroll
      for (int j = 0; j < kBlockPer; ++j) row[j] = right[depth][x + kSide * j];
#pragma unroll
      for (int i = 0; i < kBlockPer; ++i) {
        const float factor = left[depth][y + kSide * i];
#pragma unroll
        for (int j = 0; j < kBlockPer; ++j) sums[i][j] += factor * row[j];
      }
    }
  }
  __syncthreads();
}

// The three parts of a step, one after the other:
enum class Part {
  kRow,     // A_kj = P A_kj                 (P: the pivot block's inverse)
  kRest,    // A_ij -= A_ik A_kj             i, j != k
  kColumn,  // A_ik = -A_ik P, A_kk = P
};

template <Part kPart>
__global__ void __launch_bounds__(kThreads)
    Eliminate(const __grid_constant__ CorrectionDevice device, int step) {
  const Blocked at(device);
  const int row = kPart == Part::kRow ? step : blockIdx.y;
  const int column = kPart == Part::kColumn ? step : blockIdx.x;
  if (step >= at.blocks || row >= at.blocks || column >= at.blocks || *at.failed) return;
  if (kPart != Part::kColumn && column == step) return;
  if (kPart == Part::kRest && row == step) return;
  const int64_t stride = at.Stride();
  float sums[kBlockPer][kBlockPer];
  if (kPart == Part::kRow) {
    MultiplyBlocks(at.pivot, kInverseBlock, at.Block(step, column), stride, sums);
  } else if (kPart == Part::kRest) {
    MultiplyBlocks(at.Block(row, step), stride, at.Block(step, column), stride, sums);
  } else if (row != step) {
    MultiplyBlocks(at.Block(row, step), stride, at.pivot, kInverseBlock, sums);
  }
  float* to = at.Block(row, column);
  const int y = threadIdx.x / kSide, x = threadIdx.x % kSide;
#pragma unroll
  for (int i = 0; i < kBlockPer; ++i) {
#pragma unroll
    for (int j = 0; j < kBlockPer; ++j) {
      float& number = to[(y + kSide * i) * stride + x + kSide * j];
      if (kPart == Part::kRow) {
        number = sums[i][j];
      } else if (kPart == Part::kRest) {
        number -= sums[i][j];
      } else {
        number =
            row == step ? at.pivot[(y + kSide * i) * kInverseBlock + x + kSide * j] : -sums[i][j];
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    StoreBlocks(const __grid_constant__ CorrectionDevice device) {
  const Blocked at(device);
  if (static_cast<int>(blockIdx.x) >= at.blocks || static_cast<int>(blockIdx.y) >= at.blocks) {
    return;
  }
  const float* from = at.Block(blockIdx.y, blockIdx.x);
  const int64_t first = at.layer * device.inverse_per_layer + at.chunk.inverse;
  for (int i = threadIdx.x * 8; i < kInverseBlock * kInverseBlock; i += kThreads * 8) {
    const int row = i / kInverseBlock, column = i % kInverseBlock;
    const int64_t to_row = blockIdx.y * kInverseBlock + row;
    const int to_column = blockIdx.x * kInverseBlock + column;
    if (to_row >= at.chunk.cols || to_column >= at.chunk.cols) continue;
    float numbers[8];
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      *reinterpret_cast<float4*>(numbers + j) =
          *reinterpret_cast<const float4*>(from + row * at.Stride() + column + j);
    }
    StoreInverse(device, first + to_row * at.chunk.cols + to_column, numbers);
  }
}

void InvertBlocked(const CorrectionDevice& device, int layers, cudaStream_t stream) {
  const int blocks = (device.most_side + kInverseBlock - 1) / kInverseBlock;
  const int depth = layers * device.chunk_count;
  const dim3 all(blocks, blocks, depth);
  for (int step = 0; step < blocks; ++step) {
    InvertPivot<<<dim3(1, 1, depth), kSweepThreads, 0, stream>>>(device, step);
    Eliminate<Part::kRow><<<dim3(blocks, 1, depth), kThreads, 0, stream>>>(device, step);
    Eliminate<Part::kRest><<<all, kThreads, 0, stream>>>(device, step);
    Eliminate<Part::kColumn><<<dim3(1, blocks, depth), kThreads, 0, stream>>>(device, step);
  }
  StoreBlocks<<<all, kThreads, 0, stream>>>(device);
  CUDA_OR_DIE("correct", cudaGetLastError());
}

}  // namespace

void LaunchInverses(const CorrectionDevice& device, int layers, bool any_blocked,
                    cudaStream_t stream) {
  const dim3 grid(device.chunk_count, layers);
  InvertSmall<<<grid, kSweepThreads, 0, stream>>>(device);
  CUDA_OR_DIE("correct", cudaGetLastError());
  if (any_blocked) InvertBlocked(device, layers, stream);
}

}  // namespace tessera::cuda
