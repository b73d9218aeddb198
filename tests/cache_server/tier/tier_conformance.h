// What every Tier must do, as one typed suite. A tier's test instantiates it with a maker:
//
//   struct MyTierMaker { static std::unique_ptr<Tier> Make(uint64_t capacity_bytes); };
//   INSTANTIATE_TYPED_TEST_SUITE_P(MyTier, TierConformance, MyTierMaker);
#ifndef TESSERA_TESTS_CACHE_SERVER_TIER_TIER_CONFORMANCE_H_
#define TESSERA_TESTS_CACHE_SERVER_TIER_TIER_CONFORMANCE_H_

#include <atomic>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "cache_server/tier/tier.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {

inline constexpr PieceShape kShape = {.layers = 3, .slice_bytes = 8192};  // 24 KiB, whole pages

template <typename Maker>
class TierConformance : public ::testing::Test {
 protected:
  // Room for `pieces` test pieces of kShape.
  static std::unique_ptr<Tier> MakeFor(uint64_t pieces) {
    return Maker::Make(pieces * kShape.bytes());
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
}

TYPED_TEST_P(TierConformance, FindMissingKeepsTheOrder) {
  const auto tier = this->MakeFor(4);
  ASSERT_TRUE(PutTestPiece(tier.get(), 2, kShape).ok());
  const std::vector<ChunkKey> keys = {TestKey(3), TestKey(2), TestKey(1)};
  EXPECT_EQ(tier->FindMissing(keys), (std::vector<ChunkKey>{TestKey(3), TestKey(1)}));
  EXPECT_TRUE(tier->FindMissing({}).empty());
}

TYPED_TEST_P(TierConformance, InvisibleUntilCommit) {
  const auto tier = this->MakeFor(4);
  auto room = tier->Allocate(TestKey(1), kShape);
  ASSERT_TRUE(room.ok());
  FillTestPiece(1, &*room);
  const std::vector<ChunkKey> keys = {TestKey(1)};
  EXPECT_EQ(tier->FindMissing(keys).size(), 1u);
  EXPECT_FALSE(tier->Get(TestKey(1)).ok());
  EXPECT_EQ(tier->Stats().entries, 0u);
  const auto committed = tier->Commit(*std::move(room));
  ASSERT_TRUE(committed.ok());
  EXPECT_TRUE(HoldsTestPiece(*committed, 1));
  EXPECT_TRUE(tier->FindMissing(keys).empty());
}

TYPED_TEST_P(TierConformance, DroppedRoomIsFree) {
  const auto tier = this->MakeFor(1);
  for (int i = 0; i < 3; ++i) {
    const auto room = tier->Allocate(TestKey(1), kShape);
    ASSERT_TRUE(room.ok());
    EXPECT_GE(tier->Stats().used_bytes, kShape.bytes());
  }
  EXPECT_EQ(tier->Stats().used_bytes, 0u);
  EXPECT_FALSE(tier->Get(TestKey(1)).ok());
}

TYPED_TEST_P(TierConformance, FirstCommitWins) {
  const auto tier = this->MakeFor(4);
  auto first = tier->Allocate(TestKey(1), kShape);
  auto second = tier->Allocate(TestKey(1), kShape);
  ASSERT_TRUE(first.ok() && second.ok());
  FillTestPiece(1, &*first);
  FillTestPiece(99, &*second);
  ASSERT_TRUE(tier->Commit(*std::move(first)).ok());
  EXPECT_EQ(tier->Commit(*std::move(second)).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(tier->Allocate(TestKey(1), kShape).status().code(), absl::StatusCode::kAlreadyExists);
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
  EXPECT_GE(tier->Stats().used_bytes, 2 * kShape.bytes());
}

TYPED_TEST_P(TierConformance, PinnedPiecesAreNotEvicted) {
  const auto tier = this->MakeFor(2);
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(tier.get(), 2, kShape).ok());
  std::optional<ReadHandle> first = *tier->Get(TestKey(1));
  std::optional<ReadHandle> second = *tier->Get(TestKey(2));
  EXPECT_EQ(tier->Allocate(TestKey(3), kShape).status().code(),
            absl::StatusCode::kResourceExhausted);
  std::optional<ReadHandle> shared = first->Share();
  first.reset();
  EXPECT_FALSE(tier->Allocate(TestKey(3), kShape).ok()) << "the shared handle still pins it";
  shared.reset();
  ASSERT_TRUE(PutTestPiece(tier.get(), 3, kShape).ok());
  EXPECT_FALSE(tier->Get(TestKey(1)).ok());
  EXPECT_TRUE(HoldsTestPiece(*second, 2));
}

TYPED_TEST_P(TierConformance, HandlesOutliveTheTier) {
  auto tier = this->MakeFor(3);
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  const ReadHandle handle = *tier->Get(TestKey(1));
  const WriteHandle room = *tier->Allocate(TestKey(2), kShape);
  tier.reset();
  EXPECT_TRUE(HoldsTestPiece(handle, 1));
}

TYPED_TEST_P(TierConformance, ImpossibleSizes) {
  const auto tier = this->MakeFor(2);
  for (const PieceShape shape : {PieceShape{0, 10}, PieceShape{10, 0}, PieceShape{1, UINT64_MAX},
                                 PieceShape{UINT32_MAX, uint64_t{1} << 40}}) {
    EXPECT_EQ(tier->Allocate(TestKey(1), shape).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(tier->Allocate(TestKey(1), {3, kShape.bytes()}).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tier->Stats().used_bytes, 0u);
}

// Threads write, read, erase and evict pieces of mixed sizes: what is read is always the right
// piece, and the limit holds at every look.
TYPED_TEST_P(TierConformance, ManyThreadsNeverReadWrongBytes) {
  const auto tier = this->MakeFor(8);
  std::atomic<int> wrong = 0;
  std::atomic<int> over_limit = 0;
  std::atomic<int> hits = 0;
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::minstd_rand random(seed + 1);
      for (int i = 0; i < 1500; ++i) {
        const uint32_t number = random() % 20;
        const PieceShape shape = {1 + number % 4, 4096 + 512 * (number % 5)};
        const unsigned action = random() % 8;
        if (action == 0) {
          (void)tier->Erase(TestKey(number));
        } else if (action < 4) {
          (void)PutTestPiece(tier.get(), number, shape);
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
  EXPECT_GT(hits, 100);
}

REGISTER_TYPED_TEST_SUITE_P(TierConformance, MissThenHit, FindMissingKeepsTheOrder,
                            InvisibleUntilCommit, DroppedRoomIsFree, FirstCommitWins,
                            EraseKeepsWhatIsPinned, PinnedPiecesAreNotEvicted,
                            HandlesOutliveTheTier, ImpossibleSizes, ManyThreadsNeverReadWrongBytes);

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TIER_TIER_CONFORMANCE_H_
