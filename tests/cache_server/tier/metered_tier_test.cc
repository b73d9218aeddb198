#include "cache_server/tier/metered_tier.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "cache_server/tier/ram_tier.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_ram_tier.h"
#include "tests/cache_server/tier/tier_conformance.h"

namespace tessera::testing {
namespace {

// Remembers the calls.
class CallLog : public TierObserver {
 public:
  struct Call {
    TierCall call;
    bool ok;
    uint64_t bytes;
    friend bool operator==(const Call&, const Call&) = default;
  };

  void Observed(TierCall call, absl::Duration took, bool ok, uint64_t bytes) override {
    absl::MutexLock lock(&mutex_);
    calls_.push_back({call, ok, bytes});
    shortest_ = std::min(shortest_, took);
  }
  std::vector<Call> calls() const {
    absl::MutexLock lock(&mutex_);
    return calls_;
  }
  absl::Duration shortest() const {
    absl::MutexLock lock(&mutex_);
    return shortest_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<Call> calls_ ABSL_GUARDED_BY(mutex_);
  absl::Duration shortest_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteDuration();
};

struct MeteredTierMaker {
  static constexpr bool kPinsBlockEviction = true;
  static constexpr int kStressSteps = 1500;
  static std::unique_ptr<Tier> Make(const TestTierOptions& options) {
    return MakeWith(options, std::make_shared<CallLog>());
  }
  static std::unique_ptr<Tier> MakeWith(const TestTierOptions& options,
                                        std::shared_ptr<TierObserver> observer) {
    const uint64_t piece = RamTierBytes(kShape);
    RamTierOptions ram = ToTheEnd();
    ram.tenant_bytes = options.tenant_pieces * piece;
    ram.on_evicted = options.on_evicted;
    return MakeMeteredTier(MakeTestRamTier(options.pieces * piece, ram), std::move(observer));
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(MeteredTier, TierConformance, MeteredTierMaker);

constexpr uint64_t kBytes = kShape.layers * kShape.slice_bytes;

TEST(MeteredTierTest, Counts) {
  TestTierOptions options;
  options.pieces = 1;
  const auto tier = MeteredTierMaker::MakeWith(options, nullptr);
  EXPECT_FALSE(tier->Get(TestKey(1)).ok());
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  EXPECT_TRUE(tier->Find(TestKey(1)).has_value());
  EXPECT_TRUE(tier->Get(TestKey(1)).ok());
  EXPECT_TRUE(tier->Get(TestKey(1)).ok());
  const ReadHandle pinned = *tier->Get(TestKey(1));
  EXPECT_FALSE(PutTestPiece(tier.get(), 2, kShape).ok());
  const TierStats stats = tier->Stats();
  EXPECT_EQ(stats.name, "ram");
  EXPECT_EQ(stats.hits, 3u);
  EXPECT_EQ(stats.misses, 1u);
  EXPECT_EQ(stats.read_bytes, 3 * kBytes);
  EXPECT_EQ(stats.written_bytes, kBytes);
  EXPECT_EQ(stats.refused, 1u);
  EXPECT_EQ(stats.evictions, (std::array<uint64_t, kEvictionReasons>{}));
}

TEST(MeteredTierTest, TellsTheObserverOfEveryCall) {
  const auto log = std::make_shared<CallLog>();
  TestTierOptions options;
  options.pieces = 1;
  const auto tier = MeteredTierMaker::MakeWith(options, log);
  EXPECT_FALSE(tier->Get(TestKey(1)).ok());
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  EXPECT_TRUE(tier->Get(TestKey(1)).ok());
  EXPECT_TRUE(tier->Flush().ok());
  EXPECT_FALSE(tier->Allocate(TestKey(1), kShape, Tenant()).ok());
  EXPECT_TRUE(tier->Erase(TestKey(1)).ok());
  const std::vector<CallLog::Call> wanted = {
      {TierCall::kGet, false, 0},        {TierCall::kAllocate, true, kBytes},
      {TierCall::kCommit, true, kBytes}, {TierCall::kGet, true, kBytes},
      {TierCall::kFlush, true, 0},       {TierCall::kAllocate, false, 0},
      {TierCall::kErase, true, 0},
  };
  EXPECT_EQ(log->calls(), wanted);
  EXPECT_GE(log->shortest(), absl::ZeroDuration());
  EXPECT_LT(log->shortest(), absl::Minutes(1));
}

TEST(MeteredTierTest, NamesOfCalls) {
  EXPECT_STREQ(TierCallName(TierCall::kGet), "get");
  EXPECT_STREQ(TierCallName(TierCall::kFlush), "flush");
}

}  // namespace
}  // namespace tessera::testing
