#include "cache_server/transfer/lease_table.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

// The table as another process sees it.
std::shared_ptr<SharedMemory> Seen(const LeaseTable& table) {
  auto seen = SharedMemory::Attach(dup(table.memory().fd()));
  EXPECT_TRUE(seen.ok()) << seen.status();
  return *std::move(seen);
}

TEST(LeaseTableTest, ALeaseIsHeldUntilItsEnd) {
  const auto table = *LeaseTable::Create(4);
  const auto seen = Seen(*table);
  const auto lease = table->Take();
  ASSERT_TRUE(lease.ok());
  EXPECT_TRUE(IsLeaseHeld(*seen, *lease));
  EXPECT_EQ(table->held(), 1u);
  table->End(*lease);
  EXPECT_FALSE(IsLeaseHeld(*seen, *lease));
  EXPECT_EQ(table->held(), 0u);
}

TEST(LeaseTableTest, AnotherLeaseInTheSameSlotIsNotMistaken) {
  const auto table = *LeaseTable::Create(1);
  const Lease first = *table->Take();
  EXPECT_EQ(table->Take().status().code(), absl::StatusCode::kResourceExhausted);
  table->End(first);
  const Lease second = *table->Take();
  EXPECT_EQ(second.slot, first.slot);
  EXPECT_NE(second.id, first.id);
  EXPECT_FALSE(IsLeaseHeld(table->memory(), first));
  EXPECT_TRUE(IsLeaseHeld(table->memory(), second));
}

TEST(LeaseTableTest, SlotsThatAreNone) {
  const auto table = *LeaseTable::Create(2);
  EXPECT_FALSE(IsLeaseHeld(table->memory(), {.id = 0, .slot = 0})) << "no lease at all";
  EXPECT_FALSE(IsLeaseHeld(table->memory(), {.id = 1, .slot = 1u << 31}));
  EXPECT_EQ(LeaseTable::Create(0).status().code(), absl::StatusCode::kInvalidArgument);
}

// What the table is for: a reader that sees its lease held after it has read has read what the
// lease promised, while the owner ends leases and writes over the bytes as fast as it can.
TEST(LeaseTableTest, WhatIsReadUnderALeaseIsRight) {
  constexpr size_t kBytes = 4096;
  const auto table = *LeaseTable::Create(1);
  const auto seen = Seen(*table);
  auto bytes = *SharedMemory::Create(kBytes, false);
  // The bytes of lease n are all n; the id travels to the reader beside the table.
  std::atomic<uint64_t> offered = 0;
  std::atomic<bool> stop = false;
  std::thread owner([&] {
    while (!stop) {
      const Lease lease = *table->Take();
      std::memset(bytes->mutable_data(), static_cast<int>(lease.id & 0xff), kBytes);
      offered.store(lease.id);
      if (lease.id % 4 == 0) std::this_thread::yield();
      table->End(lease);
    }
  });
  int kept = 0, thrown_away = 0, wrong = 0;
  std::vector<unsigned char> copy(kBytes);
  for (int i = 0; i < 200000; ++i) {
    const Lease lease = {.id = offered.load(), .slot = 0};
    std::memcpy(copy.data(), bytes->data(), kBytes);
    if (!IsLeaseHeld(*seen, lease)) {
      ++thrown_away;
      continue;
    }
    ++kept;
    for (const unsigned char byte : copy) wrong += byte != (lease.id & 0xff);
  }
  stop = true;
  owner.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(kept, 0);
  EXPECT_GT(thrown_away, 0);
}

}  // namespace
}  // namespace tessera
