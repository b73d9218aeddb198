// W from the products and the inverse.
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/correction_device.cuh"
#include "gpu_worker/device/cuda/correction_tile.cuh"

namespace tessera::cuda {
namespace {

constexpr int kDepth = 32;  // picked rows of a stage: rows of 64 bytes
constexpr int kInverseBytes = kTileCols * 64;

// Shared memory of a tile of kRows rows: two stages, the products on their way to the kernel (16
// numbers of K's and of V's for each thread), the picked rows.
template <int kRows>
struct Shape {
  static constexpr int kThreads = 2 * kRows;
  static constexpr int kKernelBytes = kRows * 64;
  static constexpr int kStageBytes = 2 * (kKernelBytes + kInverseBytes);  // high and low of both
  static constexpr int kOnTheWay = 2 * kStageBytes;
  static constexpr int kColumns = kOnTheWay + 8 * 16 * kThreads;

  static int Bytes(int cols) { return kColumns + (cols + kDepth) * 8; }
};

// Copies the high and low parts of inverse[cols of the tile][first...] to a stage.
template <int kRows>
__device__ inline void CopyInverse(const CorrectionDevice& device, const ChunkOnDevice& chunk,
                                   const ProductTile& tile, int first, uint32_t stage) {
  const int64_t offset = blockIdx.y * device.inverse_per_layer + chunk.inverse;
  for (int i = threadIdx.x; i < kTileCols * 8; i += 2 * kRows) {
    const int row = i / 8, part = i % 4, is_low = i / 4 % 2;
    const int col = tile.col_tile * kTileCols + row;
    const bool valid = col < chunk.cols && first + part * 8 < chunk.cols;
    const __nv_bfloat16* from = (is_low ? device.low : device.high) + offset;
    if (valid) from += static_cast<int64_t>(col) * chunk.cols + first + part * 8;
    CopyAsync(
        Swizzled<64>(stage + 2 * Shape<kRows>::kKernelBytes + is_low * kInverseBytes, row, part),
        from, valid);
  }
  CommitCopies();
}

// A row of the chunk on its way to the kernel, which is, at the picked rows,
//   scale_k products_k + scale_v products_v + shift - centre + nearness.
struct KernelRow {
  const float* products_k;
  const float* products_v;
  float2 scales;
  float shift;
  int row;
  bool valid;  // one of the chunk
};

// A picked row: its number and its scaled centre.
struct PickedColumn {
  int row;
  float centre;
};

// Copies a step's products; a thread copies and reads what is its own, so no barrier is needed.
template <int kRows>
__device__ inline void CopyProducts(const KernelRow& row, int first, int cols, uint32_t to) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float* from = (i < 4 ? row.products_k : row.products_v) + first + i % 4 * 4;
    const bool valid = row.valid && first + i % 4 * 4 < cols;
    CopyAsync(to + (i * 2 * kRows + threadIdx.x) * 16, valid ? from : row.products_k, valid);
  }
  CommitCopies();
}

__device__ inline PickedColumn LoadColumn(uint32_t at) {
  PickedColumn column;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];\n"
               : "=r"(column.row), "=f"(column.centre)
               : "r"(at)
               : "memory");
  return column;
}

__device__ inline float4 LoadShared(uint32_t at) {
  float4 x;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];\n"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(at)
               : "memory");
  return x;
}

// Stores the kernel of a row and the picked rows first ... first + 7, as a sum of two bf16. from:
// the thread's products, of which `half` (0 or 1) is meant. columns: the picked rows.
template <int kRows>
__device__ inline void StoreKernel(const CorrectionDevice& device, int count, const KernelRow& row,
                                   uint32_t from, int half, uint32_t columns, int first,
                                   uint32_t to) {
  float k[8], v[8];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t at = from + ((half * 2 + i) * 2 * kRows + threadIdx.x) * 16;
    *reinterpret_cast<float4*>(k + i * 4) = LoadShared(at);
    *reinterpret_cast<float4*>(v + i * 4) = LoadShared(at + 4 * 2 * kRows * 16);
  }
  uint32_t high[4], low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float pair[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int at = i * 2 + j;
      const PickedColumn column = LoadColumn(columns + (first + at) * 8);
      const float number = row.scales.x * k[at] + row.scales.y * v[at] +
                           (row.shift - column.centre) + Nearness(device, row.row, column.row);
      pair[j] = first + at < count ? number : 0;
    }
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(pair[0], pair[1]);
    const float2 back = __bfloat1622float2(rounded);
    const __nv_bfloat162 rest = __floats2bfloat162_rn(pair[0] - back.x, pair[1] - back.y);
    high[i] = *reinterpret_cast<const uint32_t*>(&rounded);
    low[i] = *reinterpret_cast<const uint32_t*>(&rest);
  }
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(high[0]), "r"(high[1]),
               "r"(high[2]), "r"(high[3])
               : "memory");
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(to + Shape<kRows>::kKernelBytes),
               "r"(low[0]), "r"(low[1]), "r"(low[2]), "r"(low[3])
               : "memory");
}

// Stores a tile of W as the change's products want it; see kWeightsBlock.
template <int kRows>
__device__ inline void StoreWeights(__nv_bfloat16* to, const ChunkOnDevice& chunk,
                                    const ProductTile& tile, const TileSums& sums) {
  static_assert(kTileCols % kWeightsBlock == 0);
  constexpr int kBlockNumbers = kWeightsBlock * kChangeRows;
  const int shift = static_cast<int>(chunk.first_position % kChangeRows);
  const int first_col = tile.col_tile * kTileCols;
#pragma unroll
  for (int half = 0; half < 4; ++half) {
    const int group = half / 2 * 10, low = half % 2;  // quads that share a row
    const int row = tile.row_tile * kRows + sums.Row(group) + low * 8, placed = row + shift;
    if (row >= chunk.rows) continue;
    __nv_bfloat16* const row_to =
        to + static_cast<int64_t>(placed / kChangeRows) * WeightsTileNumbers(chunk.cols) +
        first_col * kChangeRows + placed % kChangeRows * kWeightsBlock;
#pragma unroll
    for (int q = group; q < group + 10; ++q) {
      const unsigned col = sums.Col(q);
      if (first_col + static_cast<int>(col) >= chunk.cols) continue;
      const unsigned part = col % kWeightsBlock / 8 ^ (placed >> 1 & 3);
      *reinterpret_cast<__nv_bfloat162*>(row_to + col / kWeightsBlock * kBlockNumbers + part * 8 +
                                         col % 8) =
          __floats2bfloat162_rn(sums.quads[q][2 * low], sums.quads[q][2 * low + 1]);
    }
  }
}

// W = kernel inverse, from both as sums of two bf16 (the product of the low parts is left out).
template <int kRows>
__global__ void __launch_bounds__(2 * kRows, 2)
    MakeWeights(const __grid_constant__ CorrectionDevice device) {
  using Sizes = Shape<kRows>;
  extern __shared__ __align__(1024) unsigned char stages[];
  auto* const columns = reinterpret_cast<PickedColumn*>(stages + Sizes::kColumns);
  const ProductTile tile = device.weights_tiles[blockIdx.x];
  const ChunkOnDevice chunk = device.chunks[tile.chunk];
  const int64_t layer = device.first_layer + blockIdx.y;
  const int64_t layer_chunk = layer * device.chunk_count + tile.chunk;
  const int64_t first = blockIdx.y * device.products_per_layer + chunk.products;
  const uint32_t base = SharedAddress(stages), on_the_way = base + Sizes::kOnTheWay;
  // A thread has half of a row of each stage.
  const int tile_row = threadIdx.x / 2, row = tile.row_tile * kRows + tile_row;
  const int shift = threadIdx.x % 2 * 16;
  const bool valid = row < chunk.rows;
  const int64_t row_first = first + (valid ? static_cast<int64_t>(row) * chunk.cols : 0);
  KernelRow from = {
      device.products_k + row_first, device.products_v + row_first, {}, 0, row, valid};
  CopyProducts<kRows>(from, shift, chunk.cols, on_the_way);
  CopyInverse<kRows>(device, chunk, tile, 0, base);

  const bool failed = device.failed[layer_chunk] != 0;
  const float2 scales = device.scales[layer_chunk];
  const float2 squares = {scales.x * scales.x, scales.y * scales.y};
  const Centre centre = device.centre[blockIdx.y * device.chunk_count + tile.chunk];
  const float* centres = device.centres + blockIdx.y * int64_t{device.picked} + chunk.first_picked;
  for (int i = threadIdx.x; i < chunk.picked_count; i += Sizes::kThreads) {
    columns[i] = {chunk.picked[i], centres[i] * centre.share};
  }
  const float2* row_sums =
      device.row_sums + blockIdx.y * int64_t{device.tile_count} * 2 * device.tile_rows;
  const float mean = valid ? MeanProduct(device, chunk, row_sums, squares, row) : 0;
  from.scales = {squares.x * centre.share, squares.y * centre.share};
  from.shift = (centre.square - mean) * centre.share;
  auto store_kernel = [&](int step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      StoreKernel<kRows>(
          device, chunk.picked_count, from, on_the_way, half, base + Sizes::kColumns,
          step * kDepth + shift + half * 8,
          Swizzled<64>(base + step % 2 * Sizes::kStageBytes, tile_row, shift / 8 + half));
    }
  };
  WaitCopies<0>();
  __syncthreads();  // for `columns`
  if (failed) return;
  store_kernel(0);
  CopyProducts<kRows>(from, kDepth + shift, chunk.cols, on_the_way);
  TileSums sums;
  const int steps = (chunk.cols + kDepth - 1) / kDepth;
  for (int step = 0; step < steps; ++step) {
    WaitCopies<1>();  // all but the next products
    BeforeBarrier();
    __syncthreads();  // the stage is whole, and the other one has been read
    const uint32_t kernel = base + step % 2 * Sizes::kStageBytes,
                   inverse = kernel + 2 * Sizes::kKernelBytes;
    BeginTile();
    MultiplyTile<64>(sums, kernel + Sizes::kKernelBytes, inverse);
    MultiplyTile<64>(sums, kernel, inverse + kInverseBytes);
    MultiplyTile<64>(sums, kernel, inverse);
    CommitTile();
    if (step + 1 < steps) {
      CopyInverse<kRows>(device, chunk, tile, (step + 1) * kDepth,
                         base + (step + 1) % 2 * Sizes::kStageBytes);
      WaitCopies<1>();  // all but the inverse
      store_kernel(step + 1);
      CopyProducts<kRows>(from, (step + 2) * kDepth + shift, chunk.cols, on_the_way);
    }
    EndTile();
  }
  StoreWeights<kRows>(device.weights + layer * device.weights_per_layer + chunk.weights, chunk,
                      tile, sums);
}

template <int kRows>
void LaunchTiles(const CorrectionDevice& device, int layers, cudaStream_t stream) {
  const int bytes = Shape<kRows>::Bytes(device.most_cols);
  CUDA_OR_DIE("correct", cudaFuncSetAttribute(MakeWeights<kRows>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  MakeWeights<kRows><<<dim3(device.weights_tile_count, layers), 2 * kRows, bytes, stream>>>(device);
  CUDA_OR_DIE("correct", cudaGetLastError());
}

}  // namespace

// sm_89 has too little shared memory for the large tiles.
int WeightsTileRows(int shared_bytes, int cols) {
  return Shape<128>::Bytes(cols) <= shared_bytes ? 128 : 64;
}

void LaunchWeights(const CorrectionDevice& device, int layers, cudaStream_t stream) {
  if (device.weights_tile_rows == 128) {
    LaunchTiles<128>(device, layers, stream);
  } else {
    LaunchTiles<64>(device, layers, stream);
  }
}

}  // namespace tessera::cuda
