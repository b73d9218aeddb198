// A RAM tier through a long life: a million operations with pieces from one page to two fifths of
// the memory. Nothing stays pinned, so every piece must find its place.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "cache_server/tier/ram_tier.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/test_ram_tier.h"

namespace tessera::testing {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMemory = 4096 * kPage;
constexpr uint32_t kNumbers = 3000;

class RamTierStorm : public ::testing::TestWithParam<EvictionKind> {
 protected:
  RamTierStorm()
      : tier_(MakeTestRamTier(kMemory, {.eviction = GetParam(),
                                        .evict_from = 0.9,
                                        .tenant_bytes = 0,
                                        .on_evicted = nullptr})) {}

  // Mostly the sizes of three models, some odd ones, and now and then a giant.
  PieceShape AnyShape() {
    constexpr uint64_t kModels[] = {12 * kPage, 48 * kPage, 37 * kPage + 500};
    const uint32_t kind = random_() % 100;
    if (kind < 70) return {.layers = 2, .slice_bytes = kModels[random_() % 3] / 2};
    if (kind < 99) return {.layers = 1, .slice_bytes = 1 + random_() % (64 * kPage)};
    return {.layers = 1, .slice_bytes = 1 + random_() % (kMemory * 2 / 5)};
  }

  // The first and the last bytes of a piece say which writing of which number it is.
  void Put(uint32_t number) {
    const PieceShape shape = AnyShape();
    auto room = tier_->Allocate(TestKey(number), shape, Tenant());
    if (absl::IsAlreadyExists(room.status())) return;
    ASSERT_TRUE(room.ok()) << room.status();
    const uint64_t mark = ++marks_;
    const size_t bytes = std::min(sizeof(mark), shape.slice_bytes);
    const auto last = room->slice(shape.layers - 1);
    std::memcpy(last.data() + last.size() - bytes, &mark, bytes);
    std::memcpy(room->slice(0).data(), &mark, bytes);
    room->set_checksum(0, ~mark);
    written_[number] = {mark, shape};
    ASSERT_TRUE(tier_->Commit(*std::move(room)).ok());
  }

  void Check(uint32_t number) {
    const auto handle = tier_->Get(TestKey(number));
    if (!handle.ok()) return;
    ++hits_;
    const auto& [mark, shape] = written_.at(number);
    ASSERT_EQ(handle->shape(), shape);
    ASSERT_EQ(handle->checksum(0), ~mark);
    const size_t bytes = std::min(sizeof(mark), shape.slice_bytes);
    ASSERT_EQ(std::memcmp(handle->slice(0).data(), &mark, bytes), 0);
    const auto last = handle->slice(shape.layers - 1);
    if (shape.bytes() < 2 * sizeof(mark)) return;  // the two marks lie over each other
    ASSERT_EQ(std::memcmp(last.data() + last.size() - bytes, &mark, bytes), 0);
  }

  struct Written {
    uint64_t mark;
    PieceShape shape;
  };

  const std::unique_ptr<Tier> tier_;
  std::minstd_rand random_{2024};
  absl::flat_hash_map<uint32_t, Written> written_;
  uint64_t marks_ = 0;
  uint64_t hits_ = 0;
};

TEST_P(RamTierStorm, EveryPieceFindsItsPlace) {
  for (int step = 0; step < 1000000 && !HasFatalFailure(); ++step) {
    const uint32_t number = random_() % kNumbers;
    const uint32_t action = random_() % 10;
    if (action < 5) {
      Put(number);
    } else if (action < 9) {
      Check(number);
    } else {
      ASSERT_TRUE(tier_->Erase(TestKey(number)).ok());
    }
    // Now and then all of it is emptied, or given to one piece, and filled again.
    if (step % 100000 == 99999) {
      ASSERT_TRUE(PutTestPiece(tier_.get(), kNumbers + step, {1, kMemory - 8}).ok());
      EXPECT_EQ(tier_->Stats().entries, 1u);
    }
  }
  EXPECT_GT(hits_, 10000u);
  const TierStats stats = tier_->Stats();
  EXPECT_GT(stats.evictions[static_cast<size_t>(EvictionReason::kRoom)], 100000u);
  EXPECT_GT(stats.evictions[static_cast<size_t>(EvictionReason::kNeighbours)], 1000u);
  EXPECT_EQ(stats.entries, tier_->List().size());
  for (const TierEntry& entry : tier_->List()) ASSERT_TRUE(tier_->Erase(entry.key).ok());
  EXPECT_EQ(tier_->Stats().used_bytes, 0u);
  EXPECT_TRUE(PutTestPiece(tier_.get(), 1, {1, kMemory - 8}).ok());
}

INSTANTIATE_TEST_SUITE_P(Policies, RamTierStorm,
                         ::testing::Values(EvictionKind::kLru, EvictionKind::kS3Fifo),
                         [](const auto& kind) {
                           return std::string(kind.param == EvictionKind::kLru ? "Lru" : "S3Fifo");
                         });

}  // namespace
}  // namespace tessera::testing
