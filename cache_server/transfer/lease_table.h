// Leases that a reader in another process can check without asking.
#ifndef TESSERA_CACHE_SERVER_TRANSFER_LEASE_TABLE_H_
#define TESSERA_CACHE_SERVER_TRANSFER_LEASE_TABLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cache_server/chunk/shared_memory.h"

namespace tessera {

// A lease, and its place in the table.
struct Lease {
  uint64_t id = 0;  // never 0, and never given twice by one server
  uint32_t slot = 0;
};

// A table in shared memory, written by the server and read by its clients: one slot of 64 bytes (a
// cache line, so that leases do not disturb each other) per lease, whose first 8 bytes are the id
// of the lease that holds it, or 0.
//
// The protocol is that of a seqlock. The owner of a lease: End clears the slot first, and only
// then are the pinned bytes let go, to be written over by others. A reader: reads the bytes, and
// then asks IsLeaseHeld. If that still sees the id, the slot had not been cleared when the bytes
// were read, so nobody had begun to write over them: what was read is right. If not, the reader
// throws it away. An id never comes back, so a slot that another lease holds now is no mistake.
//
// Why that is enough: who writes over the bytes got them through locks and counts that End's store
// comes before, so whoever sees one of the new bytes, and then passes an acquire fence, sees the
// cleared slot too. As with every seqlock the reads of bytes race with those writes by the letter
// of C++; what a race may give is thrown away.
class LeaseTable {
 public:
  static constexpr size_t kSlotBytes = 64;

  // RESOURCE_EXHAUSTED: no memory.
  static absl::StatusOr<std::unique_ptr<LeaseTable>> Create(uint32_t slots);

  // A lease that is held from now on. RESOURCE_EXHAUSTED: every slot is taken.
  absl::StatusOr<Lease> Take();

  // Ends a lease that Take gave, once. What it pinned may be let go when this returns.
  void End(const Lease& lease);

  uint32_t slots() const { return slots_; }
  // How many are held now.
  uint32_t held() const;
  // Waits until none is held. False: some still is at the deadline.
  bool WaitUntilNoneHeld(absl::Time deadline) const;
  const SharedMemory& memory() const { return *memory_; }

 private:
  LeaseTable(std::shared_ptr<SharedMemory> memory, uint32_t slots);
  std::atomic<uint64_t>& At(uint32_t slot) const;

  const std::shared_ptr<SharedMemory> memory_;
  const uint32_t slots_;
  mutable absl::Mutex mutex_;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::vector<uint32_t> free_ ABSL_GUARDED_BY(mutex_);
};

// For a reader that has mapped the table: whether `lease` is held, and so whether all that was read
// before this call was what the lease promised. False for a slot that the table does not have.
bool IsLeaseHeld(const SharedMemory& table, const Lease& lease);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TRANSFER_LEASE_TABLE_H_
