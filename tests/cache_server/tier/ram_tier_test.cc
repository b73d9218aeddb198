#include "cache_server/tier/ram_tier.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_ram_tier.h"
#include "tests/cache_server/tier/tier_conformance.h"

namespace tessera::testing {
namespace {

constexpr uint64_t kPage = 4096;

struct RamTierMaker {
  static constexpr bool kPinsBlockEviction = true;
  static constexpr int kStressSteps = 1500;
  static std::unique_ptr<Tier> Make(const TestTierOptions& options) {
    return MakeWith(EvictionKind::kLru, options);
  }
  static std::unique_ptr<Tier> MakeWith(EvictionKind kind, const TestTierOptions& options) {
    const uint64_t piece = RamTierBytes(kShape);
    return MakeTestRamTier(options.pieces * piece, {.eviction = kind,
                                                    .evict_from = 1,
                                                    .tenant_bytes = options.tenant_pieces * piece,
                                                    .on_evicted = options.on_evicted});
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(RamTier, TierConformance, RamTierMaker);

struct S3FifoRamTierMaker : RamTierMaker {
  static std::unique_ptr<Tier> Make(const TestTierOptions& options) {
    return MakeWith(EvictionKind::kS3Fifo, options);
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(S3FifoRamTier, TierConformance, S3FifoRamTierMaker);

std::unique_ptr<Tier> MakeFor(uint64_t pieces) { return RamTierMaker::Make({.pieces = pieces}); }

// One slice that takes exactly `pages` pages with its checksum.
PieceShape Pages(uint64_t pages) { return {.layers = 1, .slice_bytes = pages * kPage - 8}; }

TEST(RamTierTest, EvictsTheLeastRecentlyUsed) {
  const auto tier = MakeFor(3);
  for (uint32_t number : {1, 2, 3}) ASSERT_TRUE(PutTestPiece(tier.get(), number, kShape).ok());
  ASSERT_TRUE(tier->Get(TestKey(1)).ok());
  // A question is no use: it does not keep piece 2.
  EXPECT_TRUE(tier->Find(TestKey(2)).has_value());
  ASSERT_TRUE(PutTestPiece(tier.get(), 4, kShape).ok());
  EXPECT_EQ(PiecesIn(tier.get(), 0, 5), (std::vector<uint32_t>{1, 3, 4}));
  EXPECT_EQ(Evictions(*tier, EvictionReason::kRoom), 1u);
}

TEST(RamTierTest, EntriesKeepToTheirShare) {
  const auto tier = MakeTestRamTier(20 * kPage, {.evict_from = 0.9});
  for (uint32_t number = 0; number < 50; ++number) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, Pages(1)).ok());
    ASSERT_LE(tier->Stats().used_bytes, 18 * kPage);
  }
  EXPECT_EQ(tier->Stats().entries, 18u);
  EXPECT_EQ(tier->Stats().capacity_bytes, 20 * kPage);
}

TEST(RamTierTest, PinnedAndUnfinishedMayUseAll) {
  const auto tier = MakeTestRamTier(20 * kPage, {.evict_from = 0.5});
  std::vector<ReadHandle> pins;
  for (uint32_t number = 0; number < 10; ++number) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, Pages(1)).ok());
    pins.push_back(*tier->Get(TestKey(number)));
  }
  std::vector<WriteHandle> rooms;
  for (uint32_t number = 10; number < 20; ++number) {
    auto room = tier->Allocate(TestKey(number), Pages(1), Tenant());
    ASSERT_TRUE(room.ok()) << room.status();
    rooms.push_back(*std::move(room));
  }
  const absl::Status status = tier->Allocate(TestKey(20), Pages(1), Tenant()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("81920 pinned"), std::string::npos) << status;
  EXPECT_EQ(tier->Stats().entries, 10u);
  // Back under the share as soon as it can be.
  pins.clear();
  rooms.clear();
  ASSERT_TRUE(PutTestPiece(tier.get(), 20, Pages(2)).ok());
  EXPECT_LE(tier->Stats().used_bytes, 10 * kPage);
}

TEST(RamTierTest, APieceIsSlicesThenChecksumsInSharedMemory) {
  auto memory = *SharedMemory::Create(16 * kPage, false);
  const auto tier = MakeRamTier(memory, {});
  const PieceShape shape = {.layers = 3, .slice_bytes = 1001};
  ASSERT_TRUE(PutTestPiece(tier.get(), 5, shape).ok());
  const ReadHandle handle = *tier->Get(TestKey(5));
  EXPECT_TRUE(HoldsTestPiece(handle, 5));
  const std::byte* start = handle.slice(0).data();
  EXPECT_TRUE(memory->Contains(start, RamTierBytes(shape)));
  EXPECT_EQ((start - memory->data()) % kPage, 0u);
  EXPECT_EQ(handle.slice(2).data(), start + 2 * 1001);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(handle.checksums()), start + 3008);
  EXPECT_EQ(RamTierBytes(shape), kPage);
  EXPECT_EQ(RamTierBytes({.layers = 1, .slice_bytes = kPage - 8}), kPage);
  EXPECT_EQ(RamTierBytes({.layers = 1, .slice_bytes = kPage - 7}), 2 * kPage);
  EXPECT_EQ(tier->Stats().used_bytes, kPage);
}

TEST(RamTierTest, AnEvictedPieceGivesItsMemoryToTheNext) {
  const auto tier = MakeFor(1);
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  const std::byte* memory = tier->Get(TestKey(1))->slice(0).data();
  ASSERT_TRUE(PutTestPiece(tier.get(), 2, kShape).ok());
  const ReadHandle second = *tier->Get(TestKey(2));
  EXPECT_EQ(second.slice(0).data(), memory);
  EXPECT_TRUE(HoldsTestPiece(second, 2));
}

TEST(RamTierTest, UnfinishedWritesCount) {
  const auto tier = MakeFor(2);
  const auto first = tier->Allocate(TestKey(1), kShape, Tenant());
  const auto second = tier->Allocate(TestKey(2), kShape, Tenant());
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(tier->Allocate(TestKey(3), kShape, Tenant()).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// Every second page is free, and no two free pages are neighbours: two pages cost one neighbour.
TEST(RamTierTest, EvictsNeighboursForAnUnbrokenStretch) {
  Departures departures;
  RamTierOptions options = ToTheEnd();
  options.on_evicted = departures.Listener();
  const auto tier = MakeTestRamTier(20 * kPage, options);
  for (uint32_t number = 0; number < 20; ++number) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, Pages(1)).ok());
  }
  for (uint32_t number = 0; number < 20; number += 2) {
    ASSERT_TRUE(tier->Erase(TestKey(number)).ok());
  }
  ASSERT_TRUE(PutTestPiece(tier.get(), 100, Pages(5)).ok());
  EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(100)), 100));
  // One victim of the policy, and one more page between it and three free ones.
  EXPECT_EQ(Evictions(*tier, EvictionReason::kNeighbours), 2u);
  EXPECT_EQ(Evictions(*tier, EvictionReason::kRoom), 0u);
  EXPECT_EQ(tier->Stats().entries, 9u);
  EXPECT_EQ(departures.times(TestKey(1)), 1);
}

// Where pins lie in the way of every place near the first victims, the rest is searched.
TEST(RamTierTest, FindsTheOnlyWindowBetweenPins) {
  const auto tier = MakeTestRamTier(64 * kPage, ToTheEnd());
  std::vector<ReadHandle> pins;
  for (uint32_t number = 0; number < 64; ++number) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, Pages(1)).ok());
    if (number % 2 == 1 && number < 50) pins.push_back(*tier->Get(TestKey(number)));
  }
  ASSERT_TRUE(PutTestPiece(tier.get(), 100, Pages(14)).ok());
  EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(100)), 100));
  for (uint32_t number = 1; number < 50; number += 2) {
    EXPECT_TRUE(tier->Find(TestKey(number)).has_value()) << number;
  }
  const absl::Status status = PutTestPiece(tier.get(), 101, Pages(30));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
}

TEST(RamTierTest, TenantsThatHaveNothingAreForgotten) {
  RamTierOptions options = ToTheEnd();
  options.tenant_bytes = 2 * kPage;
  const auto tier = MakeTestRamTier(4 * kPage, options);
  for (uint32_t number = 0; number < 1000; ++number) {
    const Tenant tenant = MakeTenant(std::to_string(number));
    ASSERT_TRUE(PutTestPiece(tier.get(), number, Pages(1), tenant).ok());
  }
  EXPECT_EQ(PiecesIn(tier.get(), 0, 1000), (std::vector<uint32_t>{996, 997, 998, 999}));
}

TEST(RamTierTest, PinsCountForTheQuota) {
  RamTierOptions options = ToTheEnd();
  options.tenant_bytes = 3 * kPage;
  const auto tier = MakeTestRamTier(10 * kPage, options);
  const Tenant tenant = MakeTenant("t");
  for (uint32_t number : {1, 2, 3}) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, Pages(1), tenant).ok());
  }
  std::vector<ReadHandle> pins;
  pins.push_back(*tier->Get(TestKey(1)));
  pins.push_back(*tier->Get(TestKey(2)));
  EXPECT_EQ(PutTestPiece(tier.get(), 4, Pages(2), tenant).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tier->Stats().entries, 3u) << "nothing goes for what can not fit";
  EXPECT_TRUE(PutTestPiece(tier.get(), 5, Pages(1), tenant).ok());
  EXPECT_EQ(PiecesIn(tier.get(), 0, 9), (std::vector<uint32_t>{1, 2, 5}));
}

}  // namespace
}  // namespace tessera::testing
