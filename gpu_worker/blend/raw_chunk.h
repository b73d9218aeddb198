// One segment's KV as the cache holds it, in memory.
#ifndef TESSERA_GPU_WORKER_BLEND_RAW_CHUNK_H_
#define TESSERA_GPU_WORKER_BLEND_RAW_CHUNK_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/device/tensor.h"
#include "gpu_worker/model/config.h"

namespace tessera {

// K before RoPE and V of all layers, cut into pieces; a piece is
// [layer][K|V][token][kv_head][head_dim]. It is written only by a fetch or by a prefill of the
// segment alone; a blend reads it and never writes. That is what keeps recomputed and corrected
// rows out of the cache.
//
// A prefill writes the device's memory. A fetch writes there too where that is the program's; to a
// device with memory of its own a slice is brought from where the fetch has it, and the program has
// memory for the chunk only once it is asked for it, or computed (and so may be stored). For the
// thread that issues device work, but for the const PieceMemory.
class RawChunk {
 public:
  RawChunk(const ModelConfig& model, int64_t tokens, int64_t tokens_per_piece,
           DeviceMemory& memory = HostMemory());

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

  // Whether the device has memory of its own.
  bool is_far() const { return on_device_ != nullptr; }

  // In the program's memory. What is written there must be there before the device is asked for it.
  std::byte* PieceMemory(int64_t piece);
  // The same to read, not of a piece that was brought: one that was computed comes from the device.
  // Thread-safe.
  const std::byte* PieceMemory(int64_t piece) const;

  // To a device with memory of its own: begins to bring the slices of `layers` layers, beside the
  // device's work, from `bytes`, which stay as they are as long as `owner` does.
  void Bring(int64_t piece, int64_t layer, int64_t layers, absl::Span<const std::byte> bytes,
             std::shared_ptr<const void> owner) const;
  // Returns when all that was brought is there, and lets go of its owners.
  void AwaitBrought() const;

  // In the device's memory.
  SliceView Slice(int64_t piece, int64_t layer) const;

  // Where a prefill writes K of a slice, in the device's memory; V follows after PieceTokens rows.
  Bf16* SliceK(int64_t piece, int64_t layer);
  Bf16* SliceV(int64_t piece, int64_t layer) {
    return SliceK(piece, layer) + PieceTokens(piece) * width_;
  }
  // Behind the writes of all layers of a piece.
  void PieceComputed(int64_t piece);

 private:
  int64_t PieceStart(int64_t piece) const { return FirstToken(piece) * layers_ * 2 * width_; }
  int64_t SliceStart(int64_t piece, int64_t layer) const {
    return PieceStart(piece) + layer * 2 * width_ * PieceTokens(piece);
  }
  std::byte* Host() const;
  void AwaitOnDevice(int64_t piece, int64_t layer) const;
  Bf16* Numbers(int64_t piece, int64_t layer) const;

  static constexpr int64_t kBytes = sizeof(Bf16);

  int64_t tokens_;
  int64_t tokens_per_piece_;
  int64_t layers_;
  int64_t width_;                    // numbers in one token's K of one layer
  std::shared_ptr<std::byte> host_;  // null where the device has memory of its own
  // In a device's own memory; null where that is the program's.
  struct OnDevice;
  std::shared_ptr<OnDevice> on_device_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_RAW_CHUNK_H_
