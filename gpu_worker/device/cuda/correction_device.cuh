// What the correction's kernels share: the chunks as they see them, and tensor-core helpers.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_DEVICE_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_DEVICE_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "gpu_worker/device/cuda/correction.h"
#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// Products of rows with picked rows, and W, are cut into tiles of 64, 128 or 256 rows of the chunk
// and kTileCols picked rows.
constexpr int kTileCols = 160;
// Up to this many picked rows one block of threads inverts the matrix in its registers.
constexpr int kSmallInverse = 160;
// Larger matrices are inverted by blocks of this many rows.
constexpr int kInverseBlock = 160;
// W of a chunk is kept as its products want it: [tile of kChangeRows rows][block of kWeightsBlock
// picked rows][kChangeRows][kWeightsBlock] with rows of 64 bytes swizzled. Tiles lie on the blocks
// of KV memory, so the first and the last may have rows that the chunk has not; what stands there,
// and past the picked rows, is never used.
constexpr int kWeightsBlock = 32;
// The change is made in tiles of kChangeRows rows and kChangeUnits pairs of 8 columns.
constexpr int kChangeRows = 64;
constexpr int kChangeUnits = 8;

__host__ __device__ constexpr int WeightsTileNumbers(int cols) {
  return (cols + kWeightsBlock - 1) / kWeightsBlock * kWeightsBlock * kChangeRows;
}

struct ChunkOnDevice {
  const int32_t* picked;
  const int32_t* fresh_rows;
  int64_t first_position;
  int64_t weights;   // where its part begins: in a layer's W, in numbers
  int64_t products;  // in a layer's products
  int64_t inverse;   // in a layer's inverses
  int64_t matrix;    // in a layer's matrices
  int32_t rows;      // n
  int32_t picked_count;
  int32_t cols;         // picked_count up to a multiple of 16: the row stride of products
  int32_t side;         // of its matrix
  int32_t blocked;      // 1 when its inverse is made in blocks
  int32_t first_piece;  // in a layer's slices
  int32_t pieces;
  int32_t first_picked;  // in a layer's picked rows
  int32_t col_tiles;     // tiles of W, and of products, beside each other
  int32_t first_tile;    // in a layer's tiles of products
};

// A tile of products or of W.
struct ProductTile {
  int32_t chunk;
  int32_t row_tile;
  int32_t col_tile;
};

// Row tiles of the change that one block of threads makes, for one tile of columns.
struct ChangeSpan {
  int32_t chunk;
  int32_t first_tile;
  int32_t tiles;
};

// Where a cached row's K and V begin.
struct CachedRow {
  const __nv_bfloat16* k;
  const __nv_bfloat16* v;
};

// Numbers of a (layer, chunk) that turn products into the kernel.
struct Centre {
  float share;   // 1 / s, or 0
  float square;  // |mean of the picked rows' features|^2
};

// Pointers with "of a layer" parts begin at the layer `first_layer`, except slices, scales, failed,
// picked_rows and weights, which begin at layer 0.
struct CorrectionDevice {
  const ChunkOnDevice* chunks;
  const ProductTile* tiles;          // of products; a chunk's in order, by rows first
  const ProductTile* weights_tiles;  // of W
  const ChangeSpan* spans;
  const Slice* slices;     // [layer][pieces]
  float2* scales;          // [layer][chunk]: of K, of V
  int32_t* failed;         // [layer][chunk]: not positive definite
  CachedRow* picked_rows;  // [layer][picked]
  float* norms;            // [picked]: of one layer's deviations
  __nv_bfloat16* weights;  // [layer][weights]: see kWeightsBlock

  float2* norm_sums;    // [tile]: sums over its rows of |K|, |V|
  float2* row_sums;     // [tile][2][tile_rows]: sums of K's and V's products, by half the columns
  float* products_k;    // [products]: inner products of rows and picked rows, over K
  float* products_v;    // and over V
  float* centres;       // [picked]: means of a picked row's scaled products with the picked rows
  Centre* centre;       // [chunk]
  __nv_bfloat16* high;  // [inverse]: the inverse, as the sum of two bf16
  __nv_bfloat16* low;   // [inverse]
  float* matrix;        // [matrix]: kernel(picked, picked) + noise I
  float* pivot;         // [chunk][kInverseBlock^2]

  int64_t bytes_of_results;
  int64_t bytes_of_workspace;
  int64_t weights_per_layer;
  int64_t products_per_layer;
  int64_t inverse_per_layer;
  int64_t matrix_per_layer;
  int32_t first_layer;
  int32_t chunk_count;
  int32_t pieces;
  int32_t picked;
  int32_t tile_rows;  // of products
  int32_t tile_count;
  int32_t weights_tile_rows;
  int32_t weights_tile_count;
  int32_t span_count;
  int32_t most_cols;  // of any chunk
  int32_t most_side;
  int32_t heads;
  int32_t head_dim;
  int32_t width;
  int32_t shared_bytes;  // that a block of threads may have
  bool hopper;           // sm_90: wgmma, and a kernel may begin before the one before it has ended
  CorrectionRule rule;
  float log2_falloff;  // of nearness with distance: -log2(e) / length
};

// The steps of Prepare, in order: the products of rows and picked rows; kernel(picked, picked) +
// noise I from them; its inverse; W. Each is described in the file of its name.
int ProductTileRows(int shared_bytes);  // that suits a device's shared memory
void LaunchProducts(const CorrectionDevice& device, int layers, cudaStream_t stream);
void LaunchMatrices(const CorrectionDevice& device, int layers, cudaStream_t stream);
void LaunchInverses(const CorrectionDevice& device, int layers, bool any_blocked,
                    cudaStream_t stream);
int WeightsTileRows(int shared_bytes, int cols);
void LaunchWeights(const CorrectionDevice& device, int layers, cudaStream_t stream);

// See correction_apply.cu. On Hopper, a block of threads has a multiprocessor for itself.
bool ChangesOnHopper(const CorrectionDevice& device);
void LaunchChange(const CorrectionDevice& device, const Bf16Rows& fresh_k, const Bf16Rows& fresh_v,
                  const Rope& rope, const KvView& kv, cudaStream_t stream);

#ifdef __CUDACC__

// `pieces` are the chunk's.
__device__ inline CachedRow FindCachedRow(const Slice* pieces, int count, int row, int width) {
  int low = 0, high = count - 1;  // the last piece that begins at or before the row
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (pieces[middle].first <= row) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int64_t offset = static_cast<int64_t>(row - pieces[low].first) * width;
  return {pieces[low].k + offset, pieces[low].v + offset};
}

__device__ inline float WarpSum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// The part of the kernel that depends on the distance alone.
__device__ inline float Nearness(const CorrectionDevice& device, int a, int b) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;"
      : "=f"(power)
      : "f"(static_cast<float>(abs(a - b)) * device.log2_falloff));
  return device.rule.nearness * power + 1.0f;
}

// The mean scaled product of a chunk's row with the picked rows; squares: of the scales. row_sums:
// of the layer.
__device__ inline float MeanProduct(const CorrectionDevice& device, const ChunkOnDevice& chunk,
                                    const float2* row_sums, const float2& squares, int row) {
  const int row_tile = row / device.tile_rows, at = row % device.tile_rows;
  const float2* from =
      row_sums + (chunk.first_tile + row_tile * chunk.col_tiles) * int64_t{2} * device.tile_rows +
      at;
  float sum = 0;
  for (int i = 0; i < 2 * chunk.col_tiles; ++i, from += device.tile_rows) {
    sum += squares.x * from->x + squares.y * from->y;
  }
  return sum / chunk.picked_count;
}

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Where part `part` (16 bytes) of a row is. Rows of 64 or 128 bytes, their parts moved so that
// neither ldmatrix nor wgmma meets bank conflicts; `base` is a multiple of 1024.
template <int kRowBytes>
__device__ inline uint32_t Swizzled(uint32_t base, int row, int part) {
  const int moved = kRowBytes == 128 ? part ^ (row & 7) : part ^ ((row >> 1) & 3);
  return base + row * kRowBytes + moved * 16;
}

// Copies 16 bytes to shared memory, zeros when not `valid`.
__device__ inline void CopyAsync(uint32_t to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int kPending>
__device__ inline void WaitCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

__device__ inline void LoadFragments(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void LoadFragmentsTransposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c [16][8] += a [16][16] b [16][8].
__device__ inline void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif  // __CUDACC__

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_DEVICE_CUH_
