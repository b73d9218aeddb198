// Sizes, descriptors and the order of launches of the correction.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/correction.h"
#include "gpu_worker/device/cuda/correction_device.cuh"

namespace tessera::cuda {
namespace {

// A bug of the caller.
void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "event=cuda_misuse op=correct what=\"%s\"\n", what);
  std::abort();
}

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Deals out a stretch of memory in parts that begin at multiples of 256 bytes.
class Parts {
 public:
  explicit Parts(void* base) : base_(static_cast<unsigned char*>(base)) {}

  template <typename T>
  T* Take(int64_t count) {
    T* const part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += RoundUp(count * static_cast<int64_t>(sizeof(T)), 256);
    return part;
  }
  int64_t used() const { return used_; }

 private:
  unsigned char* const base_;
  int64_t used_ = 0;
};

int32_t RowsOf(const CorrectionChunk& chunk) {
  return std::accumulate(chunk.piece_tokens.begin(), chunk.piece_tokens.end(), 0);
}

int32_t ColsOf(const CorrectionChunk& chunk) {
  return static_cast<int32_t>(RoundUp(chunk.picked_count, 16));
}

bool IsBlocked(const CorrectionChunk& chunk) { return chunk.picked_count > kSmallInverse; }

// Rows of the matrix that is inverted.
int64_t SideOf(const CorrectionChunk& chunk) {
  return IsBlocked(chunk) ? RoundUp(chunk.picked_count, kInverseBlock) : ColsOf(chunk);
}

int32_t TilesOf(int64_t n, int64_t tile) { return static_cast<int32_t>((n + tile - 1) / tile); }

// Tiles of the change lie on the blocks of KV memory.
int32_t ChangeTiles(const CorrectionChunk& chunk) {
  static_assert(kChangeRows == KvView::kBlockSlots);
  return TilesOf(chunk.first_position % kChangeRows + RowsOf(chunk), kChangeRows);
}

ProductTile* AddTiles(int32_t chunk, int32_t row_tiles, int32_t col_tiles, ProductTile* to) {
  for (int32_t row = 0; row < row_tiles; ++row) {
    for (int32_t col = 0; col < col_tiles; ++col) *to++ = {chunk, row, col};
  }
  return to;
}

}  // namespace

Correction::Correction(const CorrectionShape& shape, std::vector<CorrectionChunk> chunks)
    : shape_(shape) {
  Require(shape.head_dim % 16 == 0 && shape.head_dim > 0 && shape.kv_heads > 0, "head_dim");
  for (CorrectionChunk& chunk : chunks) {
    const int64_t first = given_pieces_;
    given_pieces_ += static_cast<int64_t>(chunk.piece_tokens.size());
    const int32_t p = chunk.picked_count;
    if (p < std::max(1, shape.rule.fewest) || p > shape.rule.most) continue;
    Require(p <= RowsOf(chunk), "more picked rows than rows");
    chunks_.push_back(std::move(chunk));
    first_given_piece_.push_back(first);
  }
  Measure();
}

void Correction::Measure() {
  if (chunks_.empty()) return;
  int device = 0, processors = 0, major = 0;
  CUDA_OR_DIE("correct", cudaGetDevice(&device));
  CUDA_OR_DIE("correct",
              cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  CUDA_OR_DIE("correct", cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  CUDA_OR_DIE("correct", cudaDeviceGetAttribute(&shared_bytes_,
                                                cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  hopper_ = major == 9;
  for (const CorrectionChunk& chunk : chunks_) most_cols_ = std::max(most_cols_, ColsOf(chunk));
  tile_rows_ = ProductTileRows(shared_bytes_);
  weights_tile_rows_ = WeightsTileRows(shared_bytes_, most_cols_);
  int64_t change_tiles = 0;
  for (const CorrectionChunk& chunk : chunks_) {
    const int64_t rows = RowsOf(chunk);
    const int32_t cols = ColsOf(chunk);
    pieces_ += static_cast<int64_t>(chunk.piece_tokens.size());
    picked_ += chunk.picked_count;
    product_tiles_ += TilesOf(rows, tile_rows_) * TilesOf(cols, kTileCols);
    weights_tiles_ += TilesOf(rows, weights_tile_rows_) * TilesOf(cols, kTileCols);
    products_ += RoundUp(rows * cols, 128);
    weights_ += ChangeTiles(chunk) * int64_t{WeightsTileNumbers(cols)};
    inverse_ += RoundUp(int64_t{cols} * cols, 128);
    const int64_t side = SideOf(chunk);
    matrix_ += RoundUp(side * side, 64);
    most_side_ = std::max<int32_t>(most_side_, static_cast<int32_t>(side));
    any_blocked_ = any_blocked_ || IsBlocked(chunk);
    change_tiles += ChangeTiles(chunk);
  }
  // Spans as long as leaves a block of threads or two to each multiprocessor: a block's first act,
  // to fetch its deviations, is then paid once for many rows.
  const int width = shape_.kv_heads * shape_.head_dim;
  const int64_t column_tiles = 2 * TilesOf(width / 16, kChangeUnits);
  const int64_t blocks = ChangesOnHopper(OnDevice(0)) ? processors : 2 * processors;
  const int64_t wanted = std::max<int64_t>(1, blocks / column_tiles);
  tiles_per_span_ = static_cast<int32_t>(std::max<int64_t>(1, TilesOf(change_tiles, wanted)));
  for (const CorrectionChunk& chunk : chunks_) {
    spans_ += TilesOf(ChangeTiles(chunk), tiles_per_span_);
  }
}

// Results begin with what DescribeChunks writes, then come the slices of all layers; staging memory
// has the same two parts.
CorrectionDevice Correction::OnDevice(int first_layer) const {
  CorrectionDevice device = {};
  const int64_t chunks = static_cast<int64_t>(chunks_.size());
  Parts results(memory_.results);
  device.chunks = results.Take<ChunkOnDevice>(chunks);
  device.tiles = results.Take<ProductTile>(product_tiles_);
  device.weights_tiles = results.Take<ProductTile>(weights_tiles_);
  device.spans = results.Take<ChangeSpan>(spans_);
  device.slices = results.Take<Slice>(shape_.layers * pieces_);
  device.scales = results.Take<float2>(shape_.layers * chunks);
  device.failed = results.Take<int32_t>(shape_.layers * chunks);
  device.picked_rows = results.Take<CachedRow>(shape_.layers * picked_);
  device.norms = results.Take<float>(picked_);
  device.weights = results.Take<__nv_bfloat16>(shape_.layers * weights_);
  device.bytes_of_results = results.used();

  const int64_t layers = memory_.layers_at_once;
  Parts workspace(memory_.workspace);
  device.norm_sums = workspace.Take<float2>(layers * product_tiles_);
  device.row_sums = workspace.Take<float2>(layers * product_tiles_ * 2 * tile_rows_);
  device.products_k = workspace.Take<float>(layers * products_);
  device.products_v = workspace.Take<float>(layers * products_);
  device.centres = workspace.Take<float>(layers * picked_);
  device.centre = workspace.Take<Centre>(layers * chunks);
  device.high = workspace.Take<__nv_bfloat16>(layers * inverse_);
  device.low = workspace.Take<__nv_bfloat16>(layers * inverse_);
  device.matrix = workspace.Take<float>(layers * matrix_);
  device.pivot =
      workspace.Take<float>(any_blocked_ ? layers * chunks * kInverseBlock * kInverseBlock : 0);
  device.bytes_of_workspace = workspace.used();

  device.weights_per_layer = weights_;
  device.products_per_layer = products_;
  device.inverse_per_layer = inverse_;
  device.matrix_per_layer = matrix_;
  device.first_layer = first_layer;
  device.chunk_count = static_cast<int32_t>(chunks);
  device.pieces = static_cast<int32_t>(pieces_);
  device.picked = static_cast<int32_t>(picked_);
  device.tile_rows = tile_rows_;
  device.tile_count = static_cast<int32_t>(product_tiles_);
  device.weights_tile_rows = weights_tile_rows_;
  device.weights_tile_count = static_cast<int32_t>(weights_tiles_);
  device.span_count = static_cast<int32_t>(spans_);
  device.most_cols = most_cols_;
  device.most_side = most_side_;
  device.heads = shape_.kv_heads;
  device.head_dim = shape_.head_dim;
  device.width = shape_.kv_heads * shape_.head_dim;
  device.hopper = hopper_;
  device.shared_bytes = shared_bytes_;
  device.rule = shape_.rule;
  device.log2_falloff = -1.4426950408889634f / shape_.rule.length;
  return device;
}

size_t Correction::result_bytes() const { return OnDevice(0).bytes_of_results; }

size_t Correction::workspace_bytes(int layers_at_once) const {
  Correction sized = *this;
  sized.memory_.layers_at_once = layers_at_once;
  return sized.OnDevice(0).bytes_of_workspace;
}

size_t Correction::staging_bytes() const {
  Parts parts(nullptr);
  parts.Take<ChunkOnDevice>(static_cast<int64_t>(chunks_.size()));
  parts.Take<ProductTile>(product_tiles_);
  parts.Take<ProductTile>(weights_tiles_);
  parts.Take<ChangeSpan>(spans_);
  parts.Take<Slice>(shape_.layers * pieces_);
  return parts.used();
}

void Correction::DescribeChunks(unsigned char* to) const {
  Parts parts(to);
  ChunkOnDevice* chunk_to = parts.Take<ChunkOnDevice>(static_cast<int64_t>(chunks_.size()));
  ProductTile* tile_to = parts.Take<ProductTile>(product_tiles_);
  ProductTile* weights_tile_to = parts.Take<ProductTile>(weights_tiles_);
  ChangeSpan* span_to = parts.Take<ChangeSpan>(spans_);
  ChunkOnDevice next = {};
  for (int32_t i = 0; i < static_cast<int32_t>(chunks_.size()); ++i) {
    const CorrectionChunk& chunk = chunks_[i];
    next.picked = chunk.picked;
    next.fresh_rows = chunk.fresh_rows;
    next.first_position = chunk.first_position;
    next.rows = RowsOf(chunk);
    next.picked_count = chunk.picked_count;
    next.cols = ColsOf(chunk);
    next.side = static_cast<int32_t>(SideOf(chunk));
    next.blocked = IsBlocked(chunk);
    next.pieces = static_cast<int32_t>(chunk.piece_tokens.size());
    next.col_tiles = TilesOf(next.cols, kTileCols);
    *chunk_to++ = next;
    tile_to = AddTiles(i, TilesOf(next.rows, tile_rows_), next.col_tiles, tile_to);
    weights_tile_to =
        AddTiles(i, TilesOf(next.rows, weights_tile_rows_), next.col_tiles, weights_tile_to);
    const int32_t change_tiles = ChangeTiles(chunk);
    for (int32_t first = 0; first < change_tiles; first += tiles_per_span_) {
      *span_to++ = {i, first, std::min(tiles_per_span_, change_tiles - first)};
    }
    next.weights += change_tiles * int64_t{WeightsTileNumbers(next.cols)};
    next.products += RoundUp(int64_t{next.rows} * next.cols, 128);
    next.inverse += RoundUp(int64_t{next.cols} * next.cols, 128);
    next.matrix += RoundUp(int64_t{next.side} * next.side, 64);
    next.first_piece += next.pieces;
    next.first_picked += next.picked_count;
    next.first_tile += TilesOf(next.rows, tile_rows_) * next.col_tiles;
  }
}

void Correction::Stage(const CorrectionMemory& memory, cudaStream_t stream) {
  memory_ = memory;
  if (chunks_.empty()) return;
  Require(memory.layers_at_once > 0, "layers_at_once");
  auto* const staging = static_cast<unsigned char*>(memory.staging);
  DescribeChunks(staging);
  const CorrectionDevice device = OnDevice(0);
  const auto* const slices = reinterpret_cast<const unsigned char*>(device.slices);
  const size_t bytes = slices - static_cast<const unsigned char*>(memory.results);
  CUDA_OR_DIE("correct",
              cudaMemcpyAsync(memory.results, staging, bytes, cudaMemcpyHostToDevice, stream));
}

void Correction::StageSlices(int first_layer, int count, const Slice* slices,
                             cudaStream_t stream) const {
  const CorrectionDevice device = OnDevice(0);
  const int64_t before = reinterpret_cast<const unsigned char*>(device.slices) -
                         static_cast<const unsigned char*>(memory_.results);
  Slice* const staged =
      reinterpret_cast<Slice*>(static_cast<unsigned char*>(memory_.staging) + before) +
      first_layer * pieces_;
  Slice* to = staged;
  for (int layer = 0; layer < count; ++layer) {
    for (size_t i = 0; i < chunks_.size(); ++i) {
      const Slice* from = slices + layer * given_pieces_ + first_given_piece_[i];
      int32_t row = 0;
      for (const int32_t tokens : chunks_[i].piece_tokens) {
        const auto address =
            reinterpret_cast<uintptr_t>(from->k) | reinterpret_cast<uintptr_t>(from->v);
        Require(from->tokens == tokens && address % 16 == 0, "slice");
        *to++ = {from->k, from->v, tokens, row};
        row += tokens;
        ++from;
      }
    }
  }
  CUDA_OR_DIE("correct",
              cudaMemcpyAsync(const_cast<Slice*>(device.slices) + first_layer * pieces_, staged,
                              count * pieces_ * sizeof(Slice), cudaMemcpyHostToDevice, stream));
}

void Correction::Prepare(int first_layer, int count, const Slice* slices, cudaStream_t stream) {
  Require(first_layer >= 0 && first_layer + count <= shape_.layers, "layers");
  if (chunks_.empty() || count == 0) return;
  StageSlices(first_layer, count, slices, stream);
  for (int done = 0; done < count; done += memory_.layers_at_once) {
    const int layers = std::min(memory_.layers_at_once, count - done);
    const CorrectionDevice device = OnDevice(first_layer + done);
    LaunchProducts(device, layers, stream);
    LaunchMatrices(device, layers, stream);
    LaunchInverses(device, layers, any_blocked_, stream);
    LaunchWeights(device, layers, stream);
  }
}

void Correction::Apply(int layer, const Bf16Rows& fresh_k, const Bf16Rows& fresh_v,
                       const Rope& rope, const KvView& kv, cudaStream_t stream) const {
  if (chunks_.empty()) return;
  Require(layer >= 0 && layer < shape_.layers, "layer");
  Require(kv.kv_heads == shape_.kv_heads && kv.head_dim == shape_.head_dim &&
              2 * rope.half_dim == kv.head_dim && fresh_k.cols == kv.kv_heads * kv.head_dim &&
              fresh_v.cols == fresh_k.cols,
          "shapes");
  LaunchChange(OnDevice(layer), fresh_k, fresh_v, rope, kv, stream);
}

}  // namespace tessera::cuda
