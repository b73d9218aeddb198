#include "cache_server/tier/metered_tier.h"

#include "cache_server/tier/ram_tier.h"
#include "gtest/gtest.h"
#include "tests/cache_server/tier/tier_conformance.h"

namespace tessera::testing {
namespace {

struct MeteredTierMaker {
  static std::unique_ptr<Tier> Make(uint64_t capacity_bytes) {
    return MakeMeteredTier(MakeRamTier({.capacity_bytes = capacity_bytes}));
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(MeteredTier, TierConformance, MeteredTierMaker);

TEST(MeteredTierTest, Counts) {
  const auto tier = MeteredTierMaker::Make(kShape.bytes());
  EXPECT_FALSE(tier->Get(TestKey(1)).ok());
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  EXPECT_TRUE(tier->Get(TestKey(1)).ok());
  EXPECT_TRUE(tier->Get(TestKey(1)).ok());
  const ReadHandle pinned = *tier->Get(TestKey(1));
  EXPECT_FALSE(PutTestPiece(tier.get(), 2, kShape).ok());
  const TierStats stats = tier->Stats();
  EXPECT_EQ(stats.name, "ram");
  EXPECT_EQ(stats.hits, 3u);
  EXPECT_EQ(stats.misses, 1u);
  EXPECT_EQ(stats.read_bytes, 3 * kShape.bytes());
  EXPECT_EQ(stats.written_bytes, kShape.bytes());
  EXPECT_EQ(stats.refused, 1u);
  EXPECT_EQ(stats.evictions, 0u);
}

}  // namespace
}  // namespace tessera::testing
