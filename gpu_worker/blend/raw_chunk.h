// One segment's KV as the cache holds it, in memory.
#ifndef TESSERA_GPU_WORKER_BLEND_RAW_CHUNK_H_
#define TESSERA_GPU_WORKER_BLEND_RAW_CHUNK_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "gpu_worker/device/ops.h"
#include "gpu_worker/device/tensor.h"
#include "gpu_worker/model/config.h"

namespace tessera {

// K before RoPE and V of all layers, cut into pieces; a piece is
// [layer][K|V][token][kv_head][head_dim]. It is written only by a fetch or by a prefill of the
// segment alone; a blend reads it and never writes. That is what keeps recomputed and corrected
// rows out of the cache.
class RawChunk {
 public:
  RawChunk(const ModelConfig& model, int64_t tokens, int64_t tokens_per_piece)
      : tokens_(tokens),
        tokens_per_piece_(tokens_per_piece),
        layers_(model.layers),
        width_(model.kv_heads * model.head_dim),
        numbers_(new Bf16[model.layers * 2 * width_ * tokens]) {}

  int64_t tokens() const { return tokens_; }
  int64_t layers() const { return layers_; }
  int64_t pieces() const { return (tokens_ + tokens_per_piece_ - 1) / tokens_per_piece_; }
  int64_t FirstToken(int64_t piece) const { return piece * tokens_per_piece_; }
  int64_t PieceTokens(int64_t piece) const {
    return std::min(tokens_per_piece_, tokens_ - FirstToken(piece));
  }
  int64_t SliceBytes(int64_t piece) const {
    return PieceTokens(piece) * 2 * width_ * static_cast<int64_t>(sizeof(Bf16));
  }

  int64_t PieceBytes(int64_t piece) const { return SliceBytes(piece) * layers_; }
  int64_t bytes() const {
    return tokens_ * layers_ * 2 * width_ * static_cast<int64_t>(sizeof(Bf16));
  }

  std::byte* PieceMemory(int64_t piece) {
    return reinterpret_cast<std::byte*>(numbers_.get() + PieceStart(piece));
  }
  const std::byte* PieceMemory(int64_t piece) const {
    return reinterpret_cast<const std::byte*>(numbers_.get() + PieceStart(piece));
  }

  SliceView Slice(int64_t piece, int64_t layer) const {
    const Bf16* k = numbers_.get() + SliceStart(piece, layer);
    const int64_t tokens = PieceTokens(piece);
    return {k, k + tokens * width_, tokens};
  }

  // Where a prefill writes K of a slice; V follows after PieceTokens rows.
  Bf16* SliceK(int64_t piece, int64_t layer) { return numbers_.get() + SliceStart(piece, layer); }
  Bf16* SliceV(int64_t piece, int64_t layer) {
    return SliceK(piece, layer) + PieceTokens(piece) * width_;
  }

 private:
  int64_t PieceStart(int64_t piece) const { return FirstToken(piece) * layers_ * 2 * width_; }
  int64_t SliceStart(int64_t piece, int64_t layer) const {
    return PieceStart(piece) + layer * 2 * width_ * PieceTokens(piece);
  }

  int64_t tokens_;
  int64_t tokens_per_piece_;
  int64_t layers_;
  int64_t width_;  // numbers in one token's K of one layer
  std::unique_ptr<Bf16[]> numbers_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_RAW_CHUNK_H_
