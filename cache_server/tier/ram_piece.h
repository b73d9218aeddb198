// One piece in the RAM tier's memory, and the pins on it. They may outlive the tier.
#ifndef TESSERA_CACHE_SERVER_TIER_RAM_PIECE_H_
#define TESSERA_CACHE_SERVER_TIER_RAM_PIECE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "cache_server/chunk/shared_memory.h"
#include "cache_server/tier/arena.h"
#include "cache_server/tier/tier.h"

namespace tessera {

// Bytes of pieces, of one tenant. `used` grows under the tier's mutex only, and shrinks on any
// thread. `pinned` is part of it: what can not be freed now, unfinished pieces included. It may be
// off for a moment while a pin is dropped.
struct RamUsage {
  std::atomic<uint64_t> used{0};
  std::atomic<uint64_t> pinned{0};
};

// The memory and who has which bytes of it.
struct RamSpace {
  explicit RamSpace(std::shared_ptr<SharedMemory> shared)
      : memory(std::move(shared)), arena(memory->size()) {}

  const std::shared_ptr<SharedMemory> memory;
  Arena arena;
  std::atomic<uint64_t> pinned{0};  // as RamUsage::pinned, of all
};

// First room for a writer, then an entry. Shared by the index and by the pins; its bytes are free
// when the last of them drops it, or earlier, by Release.
class RamPiece {
 public:
  // `tenant_usage` may be null: nobody counts.
  RamPiece(std::shared_ptr<RamSpace> space, std::shared_ptr<RamUsage> tenant_usage,
           const ChunkKey& key, PieceShape shape, const Tenant& tenant);
  ~RamPiece() { Release(); }
  RamPiece(const RamPiece&) = delete;
  RamPiece& operator=(const RamPiece&) = delete;

  // Takes bytes of the space; false: no free stretch is large enough. Once, before anything else.
  bool Place();

  // Frees the bytes at once. Only while nobody pins the piece, and nobody can pin it any more.
  // Again: no effect.
  void Release();

  const ChunkKey& key() const { return key_; }
  PieceShape shape() const { return shape_; }
  const Tenant& tenant() const { return tenant_; }
  uint64_t start() const { return start_; }
  uint64_t bytes() const { return bytes_; }
  std::byte* slices() const { return space_->memory->mutable_data() + start_; }
  uint64_t* checksums() const;

  // Only the tier adds pins, under its mutex: what it sees unpinned there stays so.
  bool pinned() const { return pins_.load(std::memory_order_acquire) != 0; }

  // Whether the tier's index has it; guarded by the tier's mutex.
  bool indexed = false;

 private:
  friend class RamPin;
  void AddPin();
  void DropPin();

  const std::shared_ptr<RamSpace> space_;
  const std::shared_ptr<RamUsage> tenant_usage_;
  const ChunkKey key_;
  const PieceShape shape_;
  const Tenant tenant_;
  const uint64_t bytes_;
  uint64_t start_ = 0;
  std::atomic<bool> holds_bytes_{false};
  std::atomic<uint32_t> pins_{0};
};

// While it lives, the piece's bytes stay.
class RamPin {
 public:
  explicit RamPin(std::shared_ptr<RamPiece> piece) : piece_(std::move(piece)) { piece_->AddPin(); }
  ~RamPin() { piece_->DropPin(); }
  RamPin(const RamPin&) = delete;
  RamPin& operator=(const RamPin&) = delete;

  const std::shared_ptr<RamPiece>& piece() const { return piece_; }

 private:
  const std::shared_ptr<RamPiece> piece_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_RAM_PIECE_H_
