#include "cache_server/store/chunk_store.h"

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "cache_server/tier/ram_tier.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/tier_doubles.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 2, .slice_bytes = 4096};

// A store over a fast and a slow RAM tier, both under control.
class ChunkStoreTest : public ::testing::Test {
 protected:
  void Make(uint64_t fast_pieces, size_t queue = 16) {
    std::vector<std::unique_ptr<Tier>> tiers;
    for (const auto& [control, pieces] :
         {std::pair(fast_control_, fast_pieces), std::pair(slow_control_, uint64_t{100})}) {
      auto ram = MakeRamTier({.capacity_bytes = pieces * kShape.bytes()});
      tiers_.push_back(ram.get());
      tiers.push_back(std::make_unique<WrappedTier>(std::move(ram), control));
    }
    store_ = std::make_unique<ChunkStore>(std::move(tiers),
                                          ChunkStoreOptions{.write_down_queue = queue});
  }
  Tier* fast() { return tiers_[0]; }
  Tier* slow() { return tiers_[1]; }
  bool Has(Tier* tier, uint32_t number) {
    const ChunkKey key = TestKey(number);
    return tier->FindMissing({&key, 1}).empty();
  }

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
  EXPECT_EQ(store_->counters().promotions, 1u);
}

TEST_F(ChunkStoreTest, NoRoomAboveServesFromBelow) {
  Make(1);
  ASSERT_TRUE(PutTestPiece(fast(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(slow(), 2, kShape).ok());
  const ReadHandle pinned = *fast()->Get(TestKey(1));
  const auto found = store_->Get(TestKey(2));
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(HoldsTestPiece(found->handle, 2));
  EXPECT_FALSE(Has(fast(), 2));
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
  while (store_->counters().shared_loads < 5) std::this_thread::yield();
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
  EXPECT_EQ(store_->counters().dropped_write_downs, 0u);
}

TEST_F(ChunkStoreTest, WriteDownQueueIsBounded) {
  Make(100, /*queue=*/2);
  slow_control_->CloseGate();
  ASSERT_TRUE(PutTestPiece(store_.get(), 0, kShape).ok());
  slow_control_->WaitForArrivals(1);
  for (uint32_t number = 1; number <= 5; ++number) {
    ASSERT_TRUE(PutTestPiece(store_.get(), number, kShape).ok());
  }
  EXPECT_EQ(store_->counters().dropped_write_downs, 3u);
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
  EXPECT_EQ(store_->counters().dropped_write_downs, 1u);
  EXPECT_TRUE(store_->Get(TestKey(1)).ok());
}

TEST_F(ChunkStoreTest, WhatIsBelowIsNotStoredAgain) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  EXPECT_EQ(store_->Allocate(TestKey(1), kShape).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(ChunkStoreTest, EraseReachesAllTiers) {
  Make(10);
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  store_->WaitForWriteDowns();
  EXPECT_TRUE(store_->Erase(TestKey(1)).ok());
  EXPECT_EQ(store_->Get(TestKey(1)).status().code(), absl::StatusCode::kNotFound);
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
