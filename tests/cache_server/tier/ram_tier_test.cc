#include "cache_server/tier/ram_tier.h"

#include <random>
#include <utility>

#include "gtest/gtest.h"
#include "tests/cache_server/tier/tier_conformance.h"

namespace tessera::testing {
namespace {

struct RamTierMaker {
  static std::unique_ptr<Tier> Make(uint64_t capacity_bytes) {
    return MakeRamTier({.capacity_bytes = capacity_bytes});
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(RamTier, TierConformance, RamTierMaker);

TEST(RamTierTest, EvictsTheLeastRecentlyUsed) {
  const auto tier = RamTierMaker::Make(3 * kShape.bytes());
  for (uint32_t number : {1, 2, 3}) ASSERT_TRUE(PutTestPiece(tier.get(), number, kShape).ok());
  ASSERT_TRUE(tier->Get(TestKey(1)).ok());
  // A question is no use: it does not keep piece 2.
  const std::vector<ChunkKey> two = {TestKey(2)};
  EXPECT_TRUE(tier->FindMissing(two).empty());
  ASSERT_TRUE(PutTestPiece(tier.get(), 4, kShape).ok());
  EXPECT_FALSE(tier->Get(TestKey(2)).ok());
  EXPECT_TRUE(tier->Get(TestKey(1)).ok());
  EXPECT_TRUE(tier->Get(TestKey(3)).ok());
  EXPECT_EQ(tier->Stats().evictions, 1u);
  EXPECT_EQ(tier->Stats().entries, 3u);
}

TEST(RamTierTest, EvictsSeveralForOneLargePiece) {
  const auto tier = RamTierMaker::Make(4 * kShape.bytes());
  for (uint32_t number : {1, 2, 3, 4}) ASSERT_TRUE(PutTestPiece(tier.get(), number, kShape).ok());
  const ReadHandle pinned = *tier->Get(TestKey(1));
  ASSERT_TRUE(PutTestPiece(tier.get(), 5, {.layers = 9, .slice_bytes = 8192}).ok());
  EXPECT_TRUE(tier->Get(TestKey(1)).ok());
  EXPECT_EQ(tier->Stats().evictions, 3u);
  EXPECT_EQ(tier->Stats().used_bytes, 4 * kShape.bytes());
}

TEST(RamTierTest, CountsWholePages) {
  const auto tier = RamTierMaker::Make(3 * 4096);
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, {.layers = 1, .slice_bytes = 1}).ok());
  EXPECT_EQ(tier->Stats().used_bytes, 4096u);
}

TEST(RamTierTest, TheLimitHoldsUnderMixedSizes) {
  const uint64_t capacity = 100 * 4096;
  const auto tier = RamTierMaker::Make(capacity);
  std::minstd_rand random(7);
  for (uint32_t number = 0; number < 500; ++number) {
    const PieceShape shape = {1 + static_cast<uint32_t>(random() % 6), 1 + random() % 20000};
    ASSERT_TRUE(PutTestPiece(tier.get(), number, shape).ok());
    ASSERT_LE(tier->Stats().used_bytes, capacity);
    ASSERT_TRUE(tier->Get(TestKey(number)).ok());
  }
  EXPECT_GT(tier->Stats().evictions, 300u);
}

TEST(RamTierTest, AnEvictedPieceGivesItsMemoryToTheNext) {
  const auto tier = RamTierMaker::Make(kShape.bytes());
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  const std::byte* memory = tier->Get(TestKey(1))->slice(0).data();
  ASSERT_TRUE(PutTestPiece(tier.get(), 2, kShape).ok());
  const ReadHandle second = *tier->Get(TestKey(2));
  EXPECT_EQ(second.slice(0).data(), memory);
  EXPECT_TRUE(HoldsTestPiece(second, 2));
  EXPECT_EQ(tier->Stats().used_bytes, kShape.bytes());
}

TEST(RamTierTest, UnfinishedWritesCount) {
  const auto tier = RamTierMaker::Make(2 * kShape.bytes());
  const auto first = tier->Allocate(TestKey(1), kShape);
  const auto second = tier->Allocate(TestKey(2), kShape);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(tier->Allocate(TestKey(3), kShape).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tessera::testing
