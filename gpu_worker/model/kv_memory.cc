#include "gpu_worker/model/kv_memory.h"

#include "glog/logging.h"

namespace tessera {

bool KvMemory::Grow(int64_t slots) {
  CHECK(pool_ != nullptr);
  const int64_t more = KvPool::BlocksFor(slots) - static_cast<int64_t>(blocks_.size());
  if (more <= 0) return true;
  if (!pool_->Allocate(more, &blocks_)) return false;
  capacity_ = static_cast<int64_t>(blocks_.size()) * KvPool::kBlockSlots;
  return true;
}

void KvMemory::Share(absl::Span<const int32_t> blocks) {
  CHECK(pool_ != nullptr);
  for (const int32_t block : blocks) pool_->AddReference(block);
  blocks_.insert(blocks_.end(), blocks.begin(), blocks.end());
  capacity_ = static_cast<int64_t>(blocks_.size()) * KvPool::kBlockSlots;
}

bool KvMemory::Fork(int64_t slots, KvMemory* fork) const {
  CHECK_LE(slots, capacity_);
  KvMemory made(pool_);
  const int64_t whole = slots / KvPool::kBlockSlots;
  made.Share(absl::MakeConstSpan(blocks_).first(whole));
  if (slots % KvPool::kBlockSlots > 0) {
    if (!made.Grow(slots)) return false;
    pool_->CopyBlock(blocks_[whole], made.blocks_[whole]);
  }
  *fork = std::move(made);
  return true;
}

const int32_t* KvMemory::DeviceBlocks() const {
  if (pool_->memory().is_host()) return nullptr;
  if (device_blocks_.host() != blocks_) device_blocks_ = Indices(pool_->memory(), blocks_);
  return device_blocks_.view().device;
}

void KvMemory::ReleaseBlocks() {
  for (const int32_t block : blocks_) pool_->Release(block);
  blocks_.clear();
}

void KvMemory::Swap(KvMemory& other) noexcept {
  std::swap(capacity_, other.capacity_);
  std::swap(kv_heads_, other.kv_heads_);
  std::swap(head_dim_, other.head_dim_);
  std::swap(number_bytes_, other.number_bytes_);
  std::swap(numbers_, other.numbers_);
  std::swap(pool_, other.pool_);
  std::swap(blocks_, other.blocks_);
  std::swap(device_blocks_, other.device_blocks_);
}

}  // namespace tessera
