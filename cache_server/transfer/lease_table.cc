#include "cache_server/transfer/lease_table.h"

#include <new>
#include <utility>

#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {

// Two processes use the same atomic, so it must not hide a lock.
static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(sizeof(std::atomic<uint64_t>) == sizeof(uint64_t));

absl::StatusOr<std::unique_ptr<LeaseTable>> LeaseTable::Create(uint32_t slots) {
  if (slots == 0) return absl::InvalidArgumentError("a lease table needs a slot");
  ASSIGN_OR_RETURN(std::shared_ptr<SharedMemory> memory,
                   SharedMemory::Create(slots * kSlotBytes, false));
  return std::unique_ptr<LeaseTable>(new LeaseTable(std::move(memory), slots));
}

LeaseTable::LeaseTable(std::shared_ptr<SharedMemory> memory, uint32_t slots)
    : memory_(std::move(memory)), slots_(slots) {
  free_.reserve(slots);
  for (uint32_t slot = slots; slot > 0; --slot) {
    new (memory_->mutable_data() + (slot - 1) * kSlotBytes) std::atomic<uint64_t>(0);
    free_.push_back(slot - 1);
  }
}

std::atomic<uint64_t>& LeaseTable::At(uint32_t slot) const {
  return *reinterpret_cast<std::atomic<uint64_t>*>(memory_->mutable_data() + slot * kSlotBytes);
}

absl::StatusOr<Lease> LeaseTable::Take() {
  absl::MutexLock lock(&mutex_);
  if (free_.empty()) return absl::ResourceExhaustedError("too many leases");
  const Lease lease = {.id = next_id_++, .slot = free_.back()};
  free_.pop_back();
  At(lease.slot).store(lease.id);
  return lease;
}

void LeaseTable::End(const Lease& lease) {
  CHECK_LT(lease.slot, slots_);
  CHECK_EQ(At(lease.slot).load(), lease.id) << "a lease ends twice";
  // Sequentially consistent: nothing that the caller does next may be seen before it.
  At(lease.slot).store(0);
  absl::MutexLock lock(&mutex_);
  free_.push_back(lease.slot);
}

uint32_t LeaseTable::held() const {
  absl::MutexLock lock(&mutex_);
  return slots_ - static_cast<uint32_t>(free_.size());
}

bool LeaseTable::WaitUntilNoneHeld(absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return free_.size() == slots_; };
  return mutex_.AwaitWithDeadline(absl::Condition(&none), deadline);
}

bool IsLeaseHeld(const SharedMemory& table, const Lease& lease) {
  if (lease.id == 0 || lease.slot >= table.size() / LeaseTable::kSlotBytes) return false;
  // Keeps the reads of the bytes before the read of the slot.
  std::atomic_thread_fence(std::memory_order_acquire);
  const auto* slot = reinterpret_cast<const std::atomic<uint64_t>*>(
      table.data() + lease.slot * LeaseTable::kSlotBytes);
  return slot->load(std::memory_order_acquire) == lease.id;
}

}  // namespace tessera
