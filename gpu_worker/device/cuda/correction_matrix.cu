// What the picked rows' own products give: scales, centring and the matrix that is inverted.
#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/correction_device.cuh"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSide = 16;  // rows of a matrix that a block of threads fills

// One over the mean norm of a chunk's rows of K, and of V. Called by whole warps.
__device__ float2 FindScales(const float2* norm_sums, int tiles, int col_tiles, int rows) {
  float k = 0, v = 0;
  for (int i = threadIdx.x % 32; i < tiles; i += 32) {
    k += norm_sums[i * col_tiles].x;
    v += norm_sums[i * col_tiles].y;
  }
  k = WarpSum(k);
  v = WarpSum(v);
  // A chunk of zeros has no direction; its features stay zero.
  return {k > 0 ? rows / k : 0, v > 0 ? rows / v : 0};
}

// The scaled products of a picked row with the picked rows.
struct PickedProducts {
  const float* k;
  const float* v;
  float2 squares;

  __device__ PickedProducts(const CorrectionDevice& device, const ChunkOnDevice& chunk, int layer,
                            const float2& scales)
      : k(device.products_k + layer * device.products_per_layer + chunk.products),
        v(device.products_v + layer * device.products_per_layer + chunk.products),
        squares{scales.x * scales.x, scales.y * scales.y} {}

  __device__ float operator()(int64_t at) const { return squares.x * k[at] + squares.y * v[at]; }
};

// The chunk's picked rows and scales, and the means of the picked rows' products with the picked
// rows and what follows from them. A block per (chunk, layer).
__global__ void __launch_bounds__(kThreads)
    FindCentres(const __grid_constant__ CorrectionDevice device) {
  const ChunkOnDevice chunk = device.chunks[blockIdx.x];
  const int64_t layer_chunk =
      (device.first_layer + blockIdx.y) * int64_t{device.chunk_count} + blockIdx.x;
  const float2 scales = FindScales(
      device.norm_sums + blockIdx.y * int64_t{device.tile_count} + chunk.first_tile,
      (chunk.rows + device.tile_rows - 1) / device.tile_rows, chunk.col_tiles, chunk.rows);
  const PickedProducts products(device, chunk, blockIdx.y, scales);
  float* centres = device.centres + blockIdx.y * int64_t{device.picked} + chunk.first_picked;
  const Slice* pieces = device.slices + (device.first_layer + blockIdx.y) * int64_t{device.pieces} +
                        chunk.first_piece;
  CachedRow* picked_rows = device.picked_rows +
                           (device.first_layer + blockIdx.y) * int64_t{device.picked} +
                           chunk.first_picked;
  for (int i = threadIdx.x; i < chunk.picked_count; i += kThreads) {
    picked_rows[i] = FindCachedRow(pieces, chunk.pieces, chunk.picked[i], device.width);
  }
  const float2* row_sums =
      device.row_sums + blockIdx.y * int64_t{device.tile_count} * 2 * device.tile_rows;
  float sum = 0, diagonal = 0;
  for (int i = threadIdx.x; i < chunk.picked_count; i += kThreads) {
    const int row = chunk.picked[i];
    const float mean = MeanProduct(device, chunk, row_sums, products.squares, row);
    centres[i] = mean;
    sum += mean;
    diagonal += products(static_cast<int64_t>(row) * chunk.cols + i);
  }
  sum = WarpSum(sum);
  diagonal = WarpSum(diagonal);
  __shared__ float2 sums[kThreads / 32];
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = {sum, diagonal};
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads / 32; ++i) {
    sum += sums[i].x;
    diagonal += sums[i].y;
  }
  const float square = sum / chunk.picked_count;
  diagonal /= chunk.picked_count;
  const float s = diagonal - square;
  // Picked rows that are all alike leave nothing but rounding.
  device.centre[blockIdx.y * int64_t{device.chunk_count} + blockIdx.x] = {
      s > 1e-6f * diagonal ? 1.0f / s : 0.0f, square};
  device.scales[layer_chunk] = scales;
  device.failed[layer_chunk] = 0;
}

// matrix = kernel(picked, picked) + noise I, a unit matrix past the picked rows. Grid: (groups of
// kSide rows, chunk, layer).
__global__ void __launch_bounds__(kThreads)
    FillMatrix(const __grid_constant__ CorrectionDevice device) {
  const ChunkOnDevice chunk = device.chunks[blockIdx.y];
  const int64_t at = blockIdx.z * int64_t{device.chunk_count} + blockIdx.y;
  const PickedProducts products(device, chunk, blockIdx.z,
                                device.scales[device.first_layer * device.chunk_count + at]);
  const float* centres = device.centres + blockIdx.z * int64_t{device.picked} + chunk.first_picked;
  const Centre centre = device.centre[at];
  float* matrix = device.matrix + blockIdx.z * device.matrix_per_layer + chunk.matrix;
  const int i = blockIdx.x * kSide + threadIdx.x / kSide, p = chunk.picked_count;
  if (i >= chunk.side) return;
  const int row = i < p ? chunk.picked[i] : 0;
#pragma unroll 5
  for (int j = threadIdx.x % kSide; j < chunk.side; j += kSide) {
    float number = i == j ? 1 : 0;
    if (i < p && j < p) {
      const float product = products(static_cast<int64_t>(row) * chunk.cols + j);
      number = (product - centres[i] - centres[j] + centre.square) * centre.share +
               Nearness(device, row, chunk.picked[j]) + (i == j ? device.rule.noise : 0);
    }
    matrix[static_cast<int64_t>(i) * chunk.side + j] = number;
  }
}

}  // namespace

void LaunchMatrices(const CorrectionDevice& device, int layers, cudaStream_t stream) {
  FindCentres<<<dim3(device.chunk_count, layers), kThreads, 0, stream>>>(device);
  CUDA_OR_DIE("correct", cudaGetLastError());
  const int groups = (device.most_side + kSide - 1) / kSide;
  FillMatrix<<<dim3(groups, device.chunk_count, layers), kThreads, 0, stream>>>(device);
  CUDA_OR_DIE("correct", cudaGetLastError());
}

}  // namespace tessera::cuda
