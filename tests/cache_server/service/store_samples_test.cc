#include "cache_server/service/store_samples.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/test_ram_tier.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 2, .slice_bytes = 5000};

class StoreSamplesTest : public ::testing::Test {
 protected:
  StoreSamplesTest() {
    std::vector<std::unique_ptr<Tier>> tiers;
    tiers.push_back(
        MakeMeteredTier(MakeTestRamTier(1 << 20), MakeTierLatencies("ram", metrics_.get())));
    store_ = std::make_unique<ChunkStore>(std::move(tiers));
  }
  absl::flat_hash_map<std::string, double> Values() {
    absl::flat_hash_map<std::string, double> values;
    for (const MetricSample& sample : StoreSamples(*store_, counters_, nullptr)) {
      values[SampleName(sample)] = sample.value;
    }
    return values;
  }

  const std::unique_ptr<Metrics> metrics_ = Metrics::Make();
  TransportCounters counters_;
  std::unique_ptr<ChunkStore> store_;
};

TEST_F(StoreSamplesTest, CountWhatHappens) {
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  EXPECT_TRUE(store_->GetFast(TestKey(1)).ok());
  EXPECT_FALSE(store_->GetFast(TestKey(2)).ok());
  EXPECT_TRUE(store_->Erase(TestKey(1)));
  counters_.fetched_bytes += 77;
  auto values = Values();
  EXPECT_EQ(values["tessera_cache_tier_hits_total{tier=\"ram\"}"], 1);
  EXPECT_EQ(values["tessera_cache_tier_misses_total{tier=\"ram\"}"], 1);
  EXPECT_EQ(values["tessera_cache_tier_written_bytes_total{tier=\"ram\"}"], kShape.bytes());
  EXPECT_EQ(values["tessera_cache_tier_evictions_total{tier=\"ram\",reason=\"erased\"}"], 1);
  EXPECT_EQ(values["tessera_cache_sent_bytes_total{transport=\"grpc\"}"], 77);
}

TEST_F(StoreSamplesTest, NamesFollowEachOtherAndCountersSaySo) {
  absl::flat_hash_set<std::string> seen;
  std::string last;
  for (const MetricSample& sample : StoreSamples(*store_, counters_, nullptr)) {
    EXPECT_EQ(sample.counter, absl::EndsWith(sample.name, "_total")) << sample.name;
    EXPECT_FALSE(sample.help.empty());
    if (sample.name != last) {
      EXPECT_TRUE(seen.insert(sample.name).second) << sample.name;
    }
    last = sample.name;
  }
  EXPECT_GT(seen.size(), 25u);
}

TEST_F(StoreSamplesTest, CallsOfATierAreTimed) {
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  metrics_->AddSource([this] { return StoreSamples(*store_, counters_, nullptr); });
  const std::string text = metrics_->Text();
  EXPECT_TRUE(absl::StrContains(
      text, "tessera_cache_tier_seconds_count{call=\"commit\",tier=\"ram\"} 1"))
      << text;
  EXPECT_TRUE(absl::StrContains(text, "tessera_cache_tier_entries{tier=\"ram\"} 1"));
  EXPECT_TRUE(absl::StrContains(text, "# TYPE tessera_cache_tier_hits_total counter"));
  metrics_->RemoveSources();
}

}  // namespace
}  // namespace tessera::testing
