// The inner products of a chunk's rows with its picked rows, and the rows' norms: the one pass over
// the cached values. K and V are kept apart, since their scales need the norms of all rows.
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/correction_device.cuh"
#include "gpu_worker/device/cuda/correction_tile.cuh"

namespace tessera::cuda {
namespace {

constexpr int kDepth = 64;  // features of a stage: rows of 128 bytes

// Shared memory of a tile of kRows rows, in stages: rows of the chunk, then picked rows.
template <int kRows>
struct Tiling {
  static constexpr int kThreads = 2 * kRows;
  static constexpr int kStageRows = kRows + kTileCols;
  static constexpr int kStageBytes = kStageRows * kDepth * 2;
  // Where the rows of a stage come from: [K, V][row]; null where there is no row.
  using From = const __nv_bfloat16* [2][kStageRows];
};

template <int kRows>
__device__ inline void FindStageRows(const CorrectionDevice& device, const ChunkOnDevice& chunk,
                                     const ProductTile& tile, typename Tiling<kRows>::From& from) {
  const Slice* pieces = device.slices + (device.first_layer + blockIdx.y) * int64_t{device.pieces} +
                        chunk.first_piece;
  for (int i = threadIdx.x; i < Tiling<kRows>::kStageRows; i += Tiling<kRows>::kThreads) {
    int row = tile.row_tile * kRows + i;
    bool valid = row < chunk.rows;
    if (i >= kRows) {
      const int col = tile.col_tile * kTileCols + i - kRows;
      valid = col < chunk.picked_count;
      row = valid ? chunk.picked[col] : 0;
    }
    CachedRow cached = {nullptr, nullptr};
    if (valid) cached = FindCachedRow(pieces, chunk.pieces, row, device.width);
    from[0][i] = cached.k;
    from[1][i] = cached.v;
  }
}

template <int kRows>
__device__ inline void CopyStage(const __nv_bfloat16* const (&from)[Tiling<kRows>::kStageRows],
                                 int first, int width, uint32_t stage) {
  constexpr int kTogether = Tiling<kRows>::kThreads / 8;
  const int part = threadIdx.x % 8;
  const int feature = first + part * 8;
#pragma unroll
  for (int i = 0; i < Tiling<kRows>::kStageRows; i += kTogether) {
    const int row = i + threadIdx.x / 8;
    if (row >= Tiling<kRows>::kStageRows) break;
    const __nv_bfloat16* const begin = from[row];
    const bool valid = begin != nullptr && feature < width;
    CopyAsync(Swizzled<128>(stage, row, part), valid ? begin + feature : from[0], valid);
  }
}

// The sum of squares of half a stage's row.
__device__ inline float HalfRowSquares(uint32_t stage) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t words[4];
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(Swizzled<128>(stage, threadIdx.x / 2, threadIdx.x % 2 * 4 + i))
                 : "memory");
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float low = __uint_as_float(words[j] << 16);
      const float high = __uint_as_float(words[j] & 0xffff0000u);
      sum += low * low + high * high;
    }
  }
  return sum;
}

// The sum over the tile's rows of their norms; `squares` is the thread's half of a row.
template <int kThreads>
__device__ inline float SumOfNorms(float squares) {
  __shared__ float sums[kThreads / 32];
  squares += __shfl_xor_sync(0xffffffffu, squares, 1);
  const float sum = WarpSum(threadIdx.x % 2 == 0 ? sqrtf(squares) : 0);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  float all = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) all += sums[i];
  return all;
}

// Stores a tile, and the sums of its rows to row_sums[2 columns' halves][rows], of which a number
// is `float2`'s first (K) or second (V).
template <int kRows>
__device__ inline void StoreProducts(const ChunkOnDevice& chunk, const ProductTile& tile,
                                     const TileSums& sums, float* to, float* row_sums) {
#pragma unroll
  for (int half = 0; half < 4; ++half) {
    const int group = half / 2 * 10, low = half % 2;  // quads that share a row
    const int tile_row = sums.Row(group) + low * 8, row = tile.row_tile * kRows + tile_row;
    float sum = 0;
#pragma unroll
    for (int q = group; q < group + 10; ++q) {
      const int col = tile.col_tile * kTileCols + sums.Col(q);
      const float2 pair = {sums.quads[q][2 * low], sums.quads[q][2 * low + 1]};
      sum += pair.x + pair.y;
      if (row < chunk.rows && col < chunk.cols) {
        *reinterpret_cast<float2*>(to + static_cast<int64_t>(row) * chunk.cols + col) = pair;
      }
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (threadIdx.x % 4 == 0) {
      row_sums[(sums.Col(group) / (kTileCols / 2) * kRows + tile_row) * 2] = sum;
    }
  }
}

// products_k[row][col] = <k_row, k_col>, products_v likewise; col: picked rows, zero past them.
// Scaling and centring are left to who reads them: the inputs are exact, so f32 sums can bear it.
template <int kRows, int kStages>
__global__ void __launch_bounds__(2 * kRows, kRows > 128 ? 1 : 2)
    MakeProducts(const __grid_constant__ CorrectionDevice device) {
  using Shape = Tiling<kRows>;
  extern __shared__ __align__(1024) unsigned char stages[];
  __shared__ typename Shape::From from;
  const ProductTile tile = device.tiles[blockIdx.x];
  const ChunkOnDevice chunk = device.chunks[tile.chunk];
  FindStageRows<kRows>(device, chunk, tile, from);
  __syncthreads();
  const uint32_t base = SharedAddress(stages);
  const int half = (device.width + kDepth - 1) / kDepth, steps = 2 * half;
  int to_stage = 0;
  auto copy = [&](int step) {
    if (step < steps) {
      const bool is_v = step >= half;
      CopyStage<kRows>(from[is_v], (step - (is_v ? half : 0)) * kDepth, device.width,
                       base + to_stage * Shape::kStageBytes);
    }
    CommitCopies();
    to_stage = to_stage + 1 == kStages ? 0 : to_stage + 1;
  };
  for (int step = 0; step < kStages - 1; ++step) copy(step);
  const int64_t layer_tile = blockIdx.y * int64_t{device.tile_count} + blockIdx.x;
  const int64_t to = blockIdx.y * device.products_per_layer + chunk.products;
  float* row_sums = reinterpret_cast<float*>(device.row_sums + layer_tile * 2 * kRows);
  float squares = 0;
  float2 norms = {0, 0};
  TileSums sums;
  int at_stage = 0;
  for (int step = 0; step < steps; ++step) {
    WaitCopies<kStages - 2>();
    BeforeBarrier();
    __syncthreads();
    const uint32_t stage = base + at_stage * Shape::kStageBytes;
    at_stage = at_stage + 1 == kStages ? 0 : at_stage + 1;
    BeginTile();
    MultiplyTile<128>(sums, stage, stage + kRows * 128);
    CommitTile();
    copy(step + kStages - 1);
    squares += HalfRowSquares(stage);
    EndTile();
    if (step == half - 1) {
      StoreProducts<kRows>(chunk, tile, sums, device.products_k + to, row_sums);
      sums = TileSums();
      norms.x = SumOfNorms<Shape::kThreads>(squares);
      squares = 0;
    }
  }
  StoreProducts<kRows>(chunk, tile, sums, device.products_v + to, row_sums + 1);
  norms.y = SumOfNorms<Shape::kThreads>(squares);
  if (threadIdx.x == 0) device.norm_sums[layer_tile] = norms;
}

template <int kRows, int kStages>
void LaunchTiles(const CorrectionDevice& device, int layers, cudaStream_t stream) {
  constexpr int kBytes = kStages * Tiling<kRows>::kStageBytes;
  CUDA_OR_DIE("correct", cudaFuncSetAttribute(MakeProducts<kRows, kStages>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  MakeProducts<kRows, kStages>
      <<<dim3(device.tile_count, layers), 2 * kRows, kBytes, stream>>>(device);
  CUDA_OR_DIE("correct", cudaGetLastError());
}

}  // namespace

// Large tiles read the picked rows less often, but need much shared memory.
int ProductTileRows(int shared_bytes) {
  constexpr int kOther = 8 * 1024;  // of the kernel's shared memory
  return shared_bytes >= 4 * Tiling<256>::kStageBytes + kOther ? 256 : 128;
}

void LaunchProducts(const CorrectionDevice& device, int layers, cudaStream_t stream) {
  if (device.tile_rows == 256) {
    LaunchTiles<256, 4>(device, layers, stream);
  } else {
    LaunchTiles<128, 2>(device, layers, stream);
  }
}

}  // namespace tessera::cuda
