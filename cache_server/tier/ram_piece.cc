#include "cache_server/tier/ram_piece.h"

#include <optional>

#include "cache_server/tier/ram_tier.h"

namespace tessera {
namespace {

uint64_t ChecksumsStart(PieceShape shape) {
  constexpr uint64_t kAlignment = alignof(uint64_t);
  return (shape.bytes() + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

uint64_t RamTierBytes(PieceShape shape) {
  return Arena::RoundUp(ChecksumsStart(shape) + shape.layers * sizeof(uint64_t));
}

RamPiece::RamPiece(std::shared_ptr<RamSpace> space, std::shared_ptr<RamUsage> tenant_usage,
                   const ChunkKey& key, PieceShape shape, const Tenant& tenant)
    : space_(std::move(space)),
      tenant_usage_(std::move(tenant_usage)),
      key_(key),
      shape_(shape),
      tenant_(tenant),
      bytes_(RamTierBytes(shape)) {}

bool RamPiece::Place() {
  const std::optional<uint64_t> start = space_->arena.Allocate(bytes_, this);
  if (!start.has_value()) return false;
  start_ = *start;
  if (tenant_usage_ != nullptr) tenant_usage_->used += bytes_;
  holds_bytes_ = true;
  return true;
}

void RamPiece::Release() {
  if (!holds_bytes_.exchange(false)) return;
  space_->arena.Free(start_);
  if (tenant_usage_ != nullptr) tenant_usage_->used -= bytes_;
}

uint64_t* RamPiece::checksums() const {
  return reinterpret_cast<uint64_t*>(slices() + ChecksumsStart(shape_));
}

void RamPiece::AddPin() {
  if (pins_.fetch_add(1, std::memory_order_relaxed) != 0) return;
  space_->pinned += bytes_;
  if (tenant_usage_ != nullptr) tenant_usage_->pinned += bytes_;
}

void RamPiece::DropPin() {
  // Release: what this reader read, it read before the bytes go to somebody else.
  if (pins_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  space_->pinned -= bytes_;
  if (tenant_usage_ != nullptr) tenant_usage_->pinned -= bytes_;
}

}  // namespace tessera
