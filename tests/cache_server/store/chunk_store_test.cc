#include "cache_server/store/chunk_store.h"

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/test_ram_tier.h"
#include "tests/cache_server/testing/tier_doubles.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 2, .slice_bytes = 4096};

// A store over a fast and a slow RAM tier, both under control.
class ChunkStoreTest : public ::testing::Test {
 protected:
  ChunkStoreTest() { options_.admission = AdmissionKind::kAll; }

  void Make(uint64_t fast_pieces) {
    std::vector<std::unique_ptr<Tier>> tiers;
    for (const auto& [control, pieces] :
         {std::pair(fast_control_, fast_pieces), std::pair(slow_control_, uint64_t{100})}) {
      auto ram = MakeTestRamTier(pieces * RamTierBytes(kShape), ToTheEnd());
      tiers_.push_back(ram.get());
      tiers.push_back(std::make_unique<WrappedTier>(std::move(ram), control));
    }
    store_ = std::make_unique<ChunkStore>(std::move(tiers), options_, &events_);
  }
  Tier* fast() { return tiers_[0]; }
  Tier* slow() { return tiers_[1]; }
  bool Has(Tier* tier, uint32_t number) { return tier->Find(TestKey(number)).has_value(); }

  ChunkStoreOptions options_;
  KeyEvents events_;
  const std::shared_ptr<TierControl> fast_control_ = std::make_shared<TierControl>();
  const std::shared_ptr<TierControl> slow_control_ = std::make_shared<TierControl>();
  std::vector<Tier*> tiers_;
  std::unique_ptr<ChunkStore> store_;
};

TEST_F(ChunkStoreTest, FastHitDoesNotAskBelow) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(fast(), 1, kShape).ok());
  const auto found = store_->Get(TestKey(1));
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(HoldsTestPiece(found->handle, 1));
  EXPECT_EQ(slow_control_->gets(), 0);
}

TEST_F(ChunkStoreTest, SlowHitIsPromoted) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  const auto found = store_->Get(TestKey(1));
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(HoldsTestPiece(found->handle, 1));
  EXPECT_TRUE(Has(fast(), 1));
  EXPECT_TRUE(store_->Get(TestKey(1)).ok());
  EXPECT_EQ(slow_control_->gets(), 1);
  EXPECT_EQ(store_->counters().loads.loads, 1u);
}

TEST_F(ChunkStoreTest, GetFastNeverGoesDown) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  EXPECT_EQ(store_->GetFast(TestKey(1)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(slow_control_->gets(), 0);
  const auto place = store_->Find(TestKey(1));
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->tier_index, 1u);
  EXPECT_EQ(place->shape, kShape);
}

TEST_F(ChunkStoreTest, NoRoomAboveIsAMiss) {
  Make(1);
  ASSERT_TRUE(PutTestPiece(fast(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(slow(), 2, kShape).ok());
  {
    const ReadHandle pinned = *fast()->Get(TestKey(1));
    EXPECT_FALSE(store_->Get(TestKey(2)).ok());
    EXPECT_EQ(store_->counters().loads.failed_loads, 1u);
  }
  EXPECT_TRUE(store_->Get(TestKey(2)).ok()) << "it is still there below";
}

TEST_F(ChunkStoreTest, WithoutPromotionOnlyTheReaderSeesIt) {
  options_.promotion = PromotionKind::kNever;
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  {
    const auto found = store_->Get(TestKey(1));
    ASSERT_TRUE(found.ok());
    EXPECT_TRUE(HoldsTestPiece(found->handle, 1));
    EXPECT_FALSE(Has(fast(), 1));
    EXPECT_GT(fast()->Stats().used_bytes, 0u);
  }
  EXPECT_EQ(fast()->Stats().used_bytes, 0u);
}

TEST_F(ChunkStoreTest, SecondReadIsPromoted) {
  options_.promotion = PromotionKind::kSecondRead;
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  ASSERT_TRUE(store_->Get(TestKey(1)).ok());
  EXPECT_FALSE(Has(fast(), 1));
  ASSERT_TRUE(store_->Get(TestKey(1)).ok());
  EXPECT_TRUE(Has(fast(), 1));
}

TEST_F(ChunkStoreTest, ThePromotedPieceKeepsItsTenant) {
  Make(10);
  const Tenant tenant = MakeTenant("somebody");
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape, tenant).ok());
  EXPECT_EQ(store_->Get(TestKey(1))->handle.tenant(), tenant);
  EXPECT_EQ(fast()->List()[0].tenant, tenant);
}

TEST_F(ChunkStoreTest, MissEverywhere) {
  Make(10);
  EXPECT_EQ(store_->Get(TestKey(1)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->counters().tier_errors, 0u);
}

TEST_F(ChunkStoreTest, FastErrorStillServesFromBelow) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  fast_control_->FailGets(absl::InternalError("broken"));
  const auto found = store_->Get(TestKey(1));
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(HoldsTestPiece(found->handle, 1));
  EXPECT_EQ(store_->counters().tier_errors, 1u);
}

TEST_F(ChunkStoreTest, SlowErrorIsAMiss) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  slow_control_->FailGets(absl::DataLossError("damaged"));
  EXPECT_EQ(store_->Get(TestKey(1)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->counters().tier_errors, 1u);
  // The failure of one load is not remembered.
  slow_control_->FailGets(absl::OkStatus());
  EXPECT_TRUE(store_->Get(TestKey(1)).ok());
}

TEST_F(ChunkStoreTest, OneLoadPerKeyAtATime) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(slow(), 2, kShape).ok());
  slow_control_->CloseGate();
  std::vector<std::thread> readers;
  std::atomic<int> right = 0;
  for (int i = 0; i < 6; ++i) {
    readers.emplace_back([&] {
      const auto found = store_->Get(TestKey(1));
      if (found.ok() && HoldsTestPiece(found->handle, 1)) ++right;
    });
  }
  slow_control_->WaitForArrivals(1);
  while (store_->counters().loads.shared_loads < 5) std::this_thread::yield();
  // Another key does not wait for them: it stands at the gate, too.
  std::thread other([&] {
    if (store_->Get(TestKey(2)).ok()) ++right;
  });
  slow_control_->WaitForArrivals(2);
  slow_control_->OpenGate();
  for (std::thread& reader : readers) reader.join();
  other.join();
  EXPECT_EQ(right, 7);
  EXPECT_EQ(slow_control_->gets(), 2);
}

TEST_F(ChunkStoreTest, FindMissingAsksAllTiers) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(fast(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(slow(), 2, kShape).ok());
  const std::vector<ChunkKey> keys = {TestKey(3), TestKey(2), TestKey(1), TestKey(4)};
  EXPECT_EQ(store_->FindMissing(keys), (std::vector<ChunkKey>{TestKey(3), TestKey(4)}));
}

TEST_F(ChunkStoreTest, CommitIsWrittenDown) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  EXPECT_TRUE(Has(fast(), 1));
  store_->WaitForWriteDowns();
  EXPECT_TRUE(Has(slow(), 1));
  EXPECT_TRUE(HoldsTestPiece(*slow()->Get(TestKey(1)), 1));
  EXPECT_EQ(store_->counters().writes.dropped, 0u);
}

TEST_F(ChunkStoreTest, WriteDownQueueIsBounded) {
  options_.write_behind.most_pieces = 3;  // one of them is being written
  Make(100);
  slow_control_->CloseGate();
  ASSERT_TRUE(PutTestPiece(store_.get(), 0, kShape).ok());
  slow_control_->WaitForArrivals(1);
  for (uint32_t number = 1; number <= 5; ++number) {
    ASSERT_TRUE(PutTestPiece(store_.get(), number, kShape).ok());
  }
  EXPECT_EQ(store_->counters().writes.dropped, 3u);
  EXPECT_EQ(store_->counters().writes.pieces, 3u);
  EXPECT_EQ(store_->counters().writes.bytes, 3 * kShape.bytes());
  slow_control_->OpenGate();
  store_->WaitForWriteDowns();
  EXPECT_TRUE(Has(slow(), 0) && Has(slow(), 1) && Has(slow(), 2));
  EXPECT_FALSE(Has(slow(), 3) || Has(slow(), 4) || Has(slow(), 5));
}

TEST_F(ChunkStoreTest, SlowRefusalsAreCounted) {
  Make(10);
  slow_control_->FailAllocates(absl::ResourceExhaustedError("full"));
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  store_->WaitForWriteDowns();
  EXPECT_EQ(store_->counters().writes.refused, 1u);
  EXPECT_TRUE(store_->Get(TestKey(1)).ok());
}

TEST_F(ChunkStoreTest, WhatIsBelowIsNotStoredAgain) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  EXPECT_EQ(store_->Allocate(TestKey(1), kShape, Tenant()).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(ChunkStoreTest, EraseReachesAllTiers) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  store_->WaitForWriteDowns();
  EXPECT_TRUE(store_->Erase(TestKey(1)));
  EXPECT_FALSE(store_->Erase(TestKey(1)));
  EXPECT_EQ(store_->Get(TestKey(1)).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ChunkStoreTest, BytesOfTheQueueAreBounded) {
  options_.write_behind.most_bytes = 2 * kShape.bytes();
  Make(100);
  slow_control_->CloseGate();
  for (uint32_t number = 0; number < 5; ++number) {
    ASSERT_TRUE(PutTestPiece(store_.get(), number, kShape).ok());
  }
  EXPECT_EQ(store_->counters().writes.dropped, 3u);
  slow_control_->OpenGate();
}

TEST_F(ChunkStoreTest, SecondSightingIsWrittenDown) {
  options_.admission = AdmissionKind::kSecondSighting;
  Make(10);
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  store_->WaitForWriteDowns();
  EXPECT_FALSE(Has(slow(), 1));
  ASSERT_TRUE(store_->GetFast(TestKey(1)).ok());
  store_->WaitForWriteDowns();
  EXPECT_TRUE(Has(slow(), 1));
}

TEST_F(ChunkStoreTest, PinKeepsAndWritesDown) {
  options_.admission = AdmissionKind::kPinned;
  Make(2);
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  ASSERT_TRUE(store_->Pin(TestKey(1), absl::Hours(1)).ok());
  store_->WaitForWriteDowns();
  EXPECT_TRUE(Has(slow(), 1));
  for (uint32_t number = 2; number < 9; ++number) {
    ASSERT_TRUE(PutTestPiece(store_.get(), number, kShape).ok());
  }
  EXPECT_TRUE(Has(fast(), 1));
  EXPECT_FALSE(Has(slow(), 5));
  EXPECT_TRUE(store_->Unpin(TestKey(1)));
  ASSERT_TRUE(PutTestPiece(store_.get(), 10, kShape).ok());
  ASSERT_TRUE(PutTestPiece(store_.get(), 11, kShape).ok());
  EXPECT_FALSE(Has(fast(), 1));
}

TEST_F(ChunkStoreTest, PinLoadsFromBelow) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  ASSERT_TRUE(store_->Pin(TestKey(1), absl::Hours(1)).ok());
  EXPECT_TRUE(Has(fast(), 1));
  EXPECT_EQ(store_->Pin(TestKey(2), absl::Hours(1)).code(), absl::StatusCode::kNotFound);
}

TEST_F(ChunkStoreTest, ErasedIsUnpinned) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  ASSERT_TRUE(store_->Pin(TestKey(1), absl::Hours(1)).ok());
  EXPECT_TRUE(store_->Erase(TestKey(1)));
  EXPECT_EQ(store_->pins().size(), 0u);
  store_->WaitForWriteDowns();
  EXPECT_EQ(fast()->Stats().used_bytes, 0u);
}

TEST_F(ChunkStoreTest, FlushWritesWhatItNamesWhateverAdmissionSays) {
  options_.admission = AdmissionKind::kPinned;
  Make(10);
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(slow(), 2, kShape).ok());
  const std::vector<ChunkKey> keys = {TestKey(1), TestKey(2), TestKey(3)};
  const auto not_durable = store_->Flush(keys);
  ASSERT_TRUE(not_durable.ok());
  EXPECT_EQ(*not_durable, std::vector<ChunkKey>{TestKey(3)});
  EXPECT_TRUE(Has(slow(), 1));
}

TEST_F(ChunkStoreTest, FlushSaysWhatWasRefused) {
  Make(10);
  slow_control_->FailAllocates(absl::ResourceExhaustedError("full"));
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  const std::vector<ChunkKey> keys = {TestKey(1)};
  EXPECT_EQ(*store_->Flush(keys), keys);
}

TEST_F(ChunkStoreTest, ErasedWhileItWaitsToBeWrittenStaysErased) {
  Make(10);
  slow_control_->CloseGate();
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  slow_control_->WaitForArrivals(1);
  ASSERT_TRUE(PutTestPiece(store_.get(), 2, kShape).ok());
  // The first is being written, the second waits.
  EXPECT_TRUE(store_->Erase(TestKey(1)));
  EXPECT_TRUE(store_->Erase(TestKey(2)));
  EXPECT_EQ(store_->counters().writes.pieces, 1u);
  slow_control_->OpenGate();
  store_->WaitForWriteDowns();
  EXPECT_FALSE(store_->Find(TestKey(1)).has_value());
  EXPECT_FALSE(store_->Find(TestKey(2)).has_value());
  // A new piece under the same key is written as any other.
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  store_->WaitForWriteDowns();
  EXPECT_TRUE(Has(slow(), 1));
}

TEST_F(ChunkStoreTest, ErasedWhileItIsLoadedStaysErased) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  fast_control_->CloseGate();  // where the load will commit
  std::thread reader([this] {
    const auto found = store_->Get(TestKey(1));
    // Whether it came in time or not, what came is right.
    if (found.ok()) {
      EXPECT_TRUE(HoldsTestPiece(found->handle, 1));
    }
  });
  // First the reader's own look into memory, then the load's commit.
  fast_control_->WaitForArrivals(1);
  fast_control_->OpenGate();
  EXPECT_TRUE(store_->Erase(TestKey(1)));
  reader.join();
  EXPECT_FALSE(store_->Find(TestKey(1)).has_value());
}

// Threads store, read and erase: after the last erase of a key nothing brings it back.
TEST_F(ChunkStoreTest, NothingComesBackAfterItsLastErase) {
  Make(3);  // so few that most reads load from below
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 3; ++seed) {
    threads.emplace_back([this, seed] {
      std::minstd_rand random(seed);
      for (int i = 0; i < 3000; ++i) {
        const uint32_t number = random() % 6;
        const unsigned action = random() % 4;
        if (action == 0) {
          store_->Erase(TestKey(number));
        } else if (action == 1) {
          (void)PutTestPiece(store_.get(), number, kShape);
        } else if (const auto found = store_->Get(TestKey(number)); found.ok()) {
          EXPECT_TRUE(HoldsTestPiece(found->handle, number));
        }
      }
    });
  }
  // Keys of its own, each stored and erased once, while the others keep the queues busy.
  for (uint32_t number = 100; number < 400; ++number) {
    if (!PutTestPiece(store_.get(), number, kShape).ok()) continue;
    (void)store_->Get(TestKey(number));
    store_->Erase(TestKey(number));
  }
  for (std::thread& thread : threads) thread.join();
  store_->WaitForWriteDowns();
  for (uint32_t number = 100; number < 400; ++number) {
    EXPECT_FALSE(store_->Find(TestKey(number)).has_value()) << number;
  }
}

TEST_F(ChunkStoreTest, WithoutALowerTierNothingIsDurable) {
  std::vector<std::unique_ptr<Tier>> tiers;
  tiers.push_back(MakeTestRamTier(1 << 20));
  ChunkStore store(std::move(tiers));
  EXPECT_EQ(store.Flush({}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store.Get(TestKey(1)).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ChunkStoreTest, TellsOfWhatIsAdded) {
  Make(10);
  KeyWatcher watcher(10, [] {});
  ASSERT_TRUE(events_.Add(&watcher, 1));
  ASSERT_TRUE(PutTestPiece(slow(), 2, kShape).ok());
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  ASSERT_TRUE(store_->Get(TestKey(2)).ok());
  KeyEvent event;
  ASSERT_TRUE(watcher.Pop(&event));
  EXPECT_TRUE(event.added && event.key == TestKey(1) && event.tier == "ram");
  ASSERT_TRUE(watcher.Pop(&event));
  EXPECT_TRUE(event.added && event.key == TestKey(2));
  EXPECT_FALSE(watcher.Pop(&event));
  events_.Remove(&watcher);
}

TEST_F(ChunkStoreTest, StopsWithAFullQueue) {
  Make(100);
  slow_control_->CloseGate();
  for (uint32_t number = 0; number < 8; ++number) {
    ASSERT_TRUE(PutTestPiece(store_.get(), number, kShape).ok());
  }
  slow_control_->WaitForArrivals(1);
  std::thread opener([&] { slow_control_->OpenGate(); });
  store_.reset();
  opener.join();
}

}  // namespace
}  // namespace tessera::testing
