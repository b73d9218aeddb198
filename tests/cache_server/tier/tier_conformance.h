// What every Tier must do, as one typed suite. A tier's test instantiates it with a maker:
//
//   struct MyTierMaker {
//     // Whether pinned bytes lie in the tier itself, so that it can not evict them. Otherwise its
//     // handles hold copies.
//     static constexpr bool kPinsBlockEviction = true;
//     // Threads' steps in the stress test; fewer for slow media.
//     static constexpr int kStressSteps = 1500;
//     static std::unique_ptr<Tier> Make(const TestTierOptions& options);
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(MyTier, TierConformance, MyTierMaker);
#ifndef TESSERA_TESTS_CACHE_SERVER_TIER_TIER_CONFORMANCE_H_
#define TESSERA_TESTS_CACHE_SERVER_TIER_TIER_CONFORMANCE_H_

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "cache_server/tier/tier.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {

inline constexpr PieceShape kShape = {.layers = 3, .slice_bytes = 8192};

// What a maker makes a tier for. Sizes are counted in pieces of kShape, so that a maker can add
// what its tier needs beside a piece's bytes.
struct TestTierOptions {
  uint64_t pieces = 4;         // exactly so many fit, and no further one
  uint64_t tenant_pieces = 0;  // the same, of one tenant; 0: no limit
  EvictionListener on_evicted = nullptr;
};

// Remembers which entries left, and why.
class Departures {
 public:
  EvictionListener Listener() {
    return [this](const ChunkKey& key, EvictionReason reason) {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++times_[key];
      ++reasons_[static_cast<size_t>(reason)];
    };
  }
  int times(const ChunkKey& key) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = times_.find(key);
    return found == times_.end() ? 0 : found->second;
  }
  std::array<uint64_t, kEvictionReasons> reasons() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return reasons_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<ChunkKey, int> times_;
  std::array<uint64_t, kEvictionReasons> reasons_ = {};
};

inline uint64_t Evictions(const Tier& tier, EvictionReason reason) {
  return tier.Stats().evictions[static_cast<size_t>(reason)];
}

// Pieces in `tier` of [first, end).
inline std::vector<uint32_t> PiecesIn(Tier* tier, uint32_t first, uint32_t end) {
  std::vector<uint32_t> found;
  for (uint32_t number = first; number < end; ++number) {
    if (tier->Find(TestKey(number)).has_value()) found.push_back(number);
  }
  return found;
}

template <typename Maker>
class TierConformance : public ::testing::Test {
 protected:
  // Room for `pieces` test pieces of kShape.
  static std::unique_ptr<Tier> MakeFor(uint64_t pieces) {
    return Maker::Make(TestTierOptions{.pieces = pieces});
  }
};

TYPED_TEST_SUITE_P(TierConformance);

TYPED_TEST_P(TierConformance, MissThenHit) {
  const auto tier = this->MakeFor(4);
  EXPECT_EQ(tier->Get(TestKey(1)).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  const auto handle = tier->Get(TestKey(1));
  ASSERT_TRUE(handle.ok());
  EXPECT_EQ(handle->shape(), kShape);
  EXPECT_TRUE(HoldsTestPiece(*handle, 1));
  EXPECT_EQ(tier->Stats().entries, 1u);
  EXPECT_GE(tier->Stats().used_bytes, kShape.bytes());
  EXPECT_FALSE(tier->Stats().name.empty());
}

TYPED_TEST_P(TierConformance, FindTellsTheShape) {
  const auto tier = this->MakeFor(4);
  EXPECT_EQ(tier->Find(TestKey(2)), std::nullopt);
  ASSERT_TRUE(PutTestPiece(tier.get(), 2, kShape).ok());
  const PieceShape odd = {.layers = 2, .slice_bytes = 777};
  ASSERT_TRUE(PutTestPiece(tier.get(), 3, odd).ok());
  EXPECT_EQ(tier->Find(TestKey(2)), kShape);
  EXPECT_EQ(tier->Find(TestKey(3)), odd);
  ASSERT_TRUE(tier->Erase(TestKey(2)).ok());
  EXPECT_EQ(tier->Find(TestKey(2)), std::nullopt);
}

TYPED_TEST_P(TierConformance, InvisibleUntilCommit) {
  const auto tier = this->MakeFor(4);
  auto room = tier->Allocate(TestKey(1), kShape, Tenant());
  ASSERT_TRUE(room.ok());
  FillTestPiece(1, &*room);
  EXPECT_EQ(tier->Find(TestKey(1)), std::nullopt);
  EXPECT_FALSE(tier->Get(TestKey(1)).ok());
  EXPECT_EQ(tier->Stats().entries, 0u);
  EXPECT_TRUE(tier->List().empty());
  const auto committed = tier->Commit(*std::move(room));
  ASSERT_TRUE(committed.ok());
  EXPECT_TRUE(HoldsTestPiece(*committed, 1));
  EXPECT_EQ(tier->Find(TestKey(1)), kShape);
}

TYPED_TEST_P(TierConformance, DroppedRoomIsFree) {
  const auto tier = this->MakeFor(1);
  for (int i = 0; i < 3; ++i) {
    const auto room = tier->Allocate(TestKey(1), kShape, Tenant());
    ASSERT_TRUE(room.ok()) << room.status();
    EXPECT_GE(tier->Stats().used_bytes, kShape.bytes());
  }
  EXPECT_EQ(tier->Stats().used_bytes, 0u);
  EXPECT_FALSE(tier->Get(TestKey(1)).ok());
}

TYPED_TEST_P(TierConformance, FirstCommitWins) {
  const auto tier = this->MakeFor(4);
  auto first = tier->Allocate(TestKey(1), kShape, Tenant());
  auto second = tier->Allocate(TestKey(1), kShape, Tenant());
  ASSERT_TRUE(first.ok() && second.ok());
  FillTestPiece(1, &*first);
  FillTestPiece(99, &*second);
  ASSERT_TRUE(tier->Commit(*std::move(first)).ok());
  EXPECT_EQ(tier->Commit(*std::move(second)).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(tier->Allocate(TestKey(1), kShape, Tenant()).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(1)), 1));
  EXPECT_EQ(tier->Stats().entries, 1u);
}

TYPED_TEST_P(TierConformance, EraseKeepsWhatIsPinned) {
  const auto tier = this->MakeFor(2);
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  auto pinned = tier->Get(TestKey(1));
  ASSERT_TRUE(pinned.ok());
  EXPECT_TRUE(tier->Erase(TestKey(1)).ok());
  EXPECT_TRUE(tier->Erase(TestKey(1)).ok());
  EXPECT_EQ(tier->Get(TestKey(1)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(tier->Stats().entries, 0u);
  // The key may be written anew while the old bytes are still read.
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  EXPECT_TRUE(HoldsTestPiece(*pinned, 1));
  if (TypeParam::kPinsBlockEviction) {
    EXPECT_GE(tier->Stats().used_bytes, 2 * kShape.bytes());
  }
}

TYPED_TEST_P(TierConformance, PinnedPiecesStayReadable) {
  const auto tier = this->MakeFor(2);
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(tier.get(), 2, kShape).ok());
  std::optional<ReadHandle> first = *tier->Get(TestKey(1));
  std::optional<ReadHandle> second = *tier->Get(TestKey(2));
  std::optional<ReadHandle> shared = first->Share();
  first.reset();
  const absl::Status third = PutTestPiece(tier.get(), 3, kShape);
  if (TypeParam::kPinsBlockEviction) {
    EXPECT_EQ(third.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(PiecesIn(tier.get(), 1, 4), (std::vector<uint32_t>{1, 2}));
  } else {
    EXPECT_TRUE(third.ok()) << third;
  }
  EXPECT_TRUE(HoldsTestPiece(*shared, 1));
  EXPECT_TRUE(HoldsTestPiece(*second, 2));
  shared.reset();
  ASSERT_TRUE(PutTestPiece(tier.get(), 4, kShape).ok());
  EXPECT_FALSE(tier->Get(TestKey(1)).ok());
  EXPECT_TRUE(HoldsTestPiece(*second, 2));
}

TYPED_TEST_P(TierConformance, HandlesOutliveTheTier) {
  auto tier = this->MakeFor(3);
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  const ReadHandle handle = *tier->Get(TestKey(1));
  WriteHandle room = *tier->Allocate(TestKey(2), kShape, Tenant());
  tier.reset();
  EXPECT_TRUE(HoldsTestPiece(handle, 1));
  FillTestPiece(2, &room);
  EXPECT_TRUE(HoldsTestPiece(std::move(room).KeepPrivate(), 2));
}

TYPED_TEST_P(TierConformance, PrivatePiecesAreNeverFound) {
  const auto tier = this->MakeFor(1);
  {
    WriteHandle room = *tier->Allocate(TestKey(1), kShape, Tenant());
    FillTestPiece(1, &room);
    const ReadHandle kept = std::move(room).KeepPrivate();
    EXPECT_TRUE(HoldsTestPiece(kept, 1));
    EXPECT_EQ(tier->Find(TestKey(1)), std::nullopt);
    EXPECT_FALSE(tier->Get(TestKey(1)).ok());
    EXPECT_TRUE(tier->List().empty());
    EXPECT_GE(tier->Stats().used_bytes, kShape.bytes());
  }
  EXPECT_EQ(tier->Stats().used_bytes, 0u);
  EXPECT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
}

TYPED_TEST_P(TierConformance, ImpossibleSizes) {
  const auto tier = this->MakeFor(2);
  for (const PieceShape shape : {PieceShape{0, 10}, PieceShape{10, 0}, PieceShape{1, UINT64_MAX},
                                 PieceShape{UINT32_MAX, uint64_t{1} << 40}}) {
    EXPECT_EQ(tier->Allocate(TestKey(1), shape, Tenant()).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  EXPECT_EQ(tier->Allocate(TestKey(2), {3, kShape.bytes()}, Tenant()).status().code(),
            absl::StatusCode::kResourceExhausted);
  // What can never fit costs nobody an entry.
  EXPECT_EQ(tier->Find(TestKey(1)), kShape);
}

TYPED_TEST_P(TierConformance, ListsEveryEntry) {
  const auto tier = this->MakeFor(4);
  const absl::Time before = absl::Now();
  const Tenant tenant = MakeTenant("somebody");
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(tier.get(), 2, {2, 100}, tenant).ok());
  ASSERT_TRUE(tier->Get(TestKey(2)).ok());
  std::vector<TierEntry> entries = tier->List();
  ASSERT_EQ(entries.size(), 2u);
  if (entries[0].key != TestKey(1)) std::swap(entries[0], entries[1]);
  EXPECT_EQ(entries[0].key, TestKey(1));
  EXPECT_EQ(entries[0].shape, kShape);
  EXPECT_EQ(entries[0].tenant, Tenant());
  EXPECT_EQ(entries[0].used, entries[0].added);
  EXPECT_GE(entries[0].added, before);
  EXPECT_EQ(entries[1].key, TestKey(2));
  EXPECT_EQ(entries[1].shape, (PieceShape{2, 100}));
  EXPECT_EQ(entries[1].tenant, tenant);
  EXPECT_GT(entries[1].used, entries[1].added);
  EXPECT_LE(entries[1].used, absl::Now());
}

TYPED_TEST_P(TierConformance, FlushSucceedsAndKeepsAll) {
  const auto tier = this->MakeFor(4);
  EXPECT_TRUE(tier->Flush().ok());
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  EXPECT_TRUE(tier->Flush().ok());
  EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(1)), 1));
}

TYPED_TEST_P(TierConformance, TellsOnceOfEachEntryThatLeaves) {
  Departures departures;
  const auto tier = TypeParam::Make({.pieces = 4, .on_evicted = departures.Listener()});
  for (uint32_t number = 0; number < 20; ++number) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, kShape).ok());
  }
  const std::vector<uint32_t> left = PiecesIn(tier.get(), 0, 20);
  ASSERT_EQ(left.size(), 4u);
  EXPECT_EQ(Evictions(*tier, EvictionReason::kRoom), 16u);
  ASSERT_TRUE(tier->Erase(TestKey(left[0])).ok());
  ASSERT_TRUE(tier->Erase(TestKey(left[0])).ok());
  EXPECT_EQ(Evictions(*tier, EvictionReason::kErased), 1u);
  for (uint32_t number = 0; number < 20; ++number) {
    const bool here = tier->Find(TestKey(number)).has_value();
    EXPECT_EQ(departures.times(TestKey(number)), here ? 0 : 1) << number;
  }
  EXPECT_EQ(departures.reasons(), tier->Stats().evictions);
}

TYPED_TEST_P(TierConformance, ATenantPastItsQuotaPaysItself) {
  Departures departures;
  const auto tier =
      TypeParam::Make({.pieces = 8, .tenant_pieces = 3, .on_evicted = departures.Listener()});
  const Tenant one = MakeTenant("one");
  const Tenant two = MakeTenant("two");
  for (uint32_t number : {0, 1, 2}) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, kShape, one).ok());
  }
  for (uint32_t number = 10; number < 20; ++number) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, kShape, two).ok());
  }
  EXPECT_EQ(PiecesIn(tier.get(), 0, 10).size(), 3u);
  EXPECT_EQ(PiecesIn(tier.get(), 10, 20).size(), 3u);
  EXPECT_EQ(Evictions(*tier, EvictionReason::kTenantQuota), 7u);
  EXPECT_EQ(departures.reasons(), tier->Stats().evictions);
  // More than a quota at once: refused, and nobody pays.
  EXPECT_EQ(tier->Allocate(TestKey(30), {.layers = 3, .slice_bytes = 6 * kShape.slice_bytes}, two)
                .status()
                .code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(PiecesIn(tier.get(), 0, 20).size(), 6u);
}

// Threads write, read, erase and evict pieces of mixed sizes: what is read is always the right
// piece, and the limit holds at every look.
TYPED_TEST_P(TierConformance, ManyThreadsNeverReadWrongBytes) {
  Departures departures;
  const auto tier =
      TypeParam::Make({.pieces = 8, .tenant_pieces = 6, .on_evicted = departures.Listener()});
  std::atomic<int> wrong = 0;
  std::atomic<int> over_limit = 0;
  std::atomic<int> hits = 0;
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      const Tenant tenant = MakeTenant(seed % 2 == 0 ? "even" : "odd");
      std::minstd_rand random(seed + 1);
      for (int i = 0; i < TypeParam::kStressSteps; ++i) {
        const uint32_t number = random() % 20;
        const PieceShape shape = {1 + number % 4, 4096 + 512 * (number % 5)};
        const unsigned action = random() % 8;
        if (action == 0) {
          (void)tier->Erase(TestKey(number));
        } else if (action < 4) {
          (void)PutTestPiece(tier.get(), number, shape, tenant);
        } else if (const auto handle = tier->Get(TestKey(number)); handle.ok()) {
          ++hits;
          if (handle->shape() != shape || !HoldsTestPiece(*handle, number)) ++wrong;
        }
        const TierStats stats = tier->Stats();
        if (stats.used_bytes > stats.capacity_bytes) ++over_limit;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(over_limit, 0);
  EXPECT_GT(hits, TypeParam::kStressSteps / 15);
  EXPECT_EQ(departures.reasons(), tier->Stats().evictions);
  for (const TierEntry& entry : tier->List()) ASSERT_TRUE(tier->Erase(entry.key).ok());
  EXPECT_EQ(tier->Stats().entries, 0u);
  EXPECT_EQ(tier->Stats().used_bytes, 0u);
}

REGISTER_TYPED_TEST_SUITE_P(TierConformance, MissThenHit, FindTellsTheShape, InvisibleUntilCommit,
                            DroppedRoomIsFree, FirstCommitWins, EraseKeepsWhatIsPinned,
                            PinnedPiecesStayReadable, HandlesOutliveTheTier,
                            PrivatePiecesAreNeverFound, ImpossibleSizes, ListsEveryEntry,
                            FlushSucceedsAndKeepsAll, TellsOnceOfEachEntryThatLeaves,
                            ATenantPastItsQuotaPaysItself, ManyThreadsNeverReadWrongBytes);

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TIER_TIER_CONFORMANCE_H_
