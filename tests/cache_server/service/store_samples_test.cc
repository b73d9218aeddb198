#include "cache_server/service/store_samples.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "cache_server/service/fetch_pieces.h"
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
  StoreSources Sources() const {
    return {.store = store_.get(),
            .counters = &counters_,
            .shm = nullptr,
            .open_fetches = 2,
            .open_stores = 3};
  }
  absl::flat_hash_map<std::string, double> Values() {
    absl::flat_hash_map<std::string, double> values;
    for (const MetricSample& sample : StoreSamples(Sources())) {
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

TEST_F(StoreSamplesTest, WhatReadersAskForIsCountedByTier) {
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(store_.get(), 2, kShape).ok());
  const std::vector<ChunkKey> keys = {TestKey(1), TestKey(3), TestKey(2)};
  FetchPieces::Start(store_.get(), keys, /*stop_at_first_miss=*/false);
  auto values = Values();
  EXPECT_EQ(values["tessera_cache_lookup_pieces_total{tier=\"ram\"}"], 2);
  EXPECT_EQ(values["tessera_cache_lookup_pieces_total{tier=\"none\"}"], 1);
  EXPECT_EQ(values["tessera_cache_lookup_hit_bytes_total{tier=\"ram\"}"], 2 * kShape.bytes());
  // Of a chain, what stands behind a miss is one too.
  FetchPieces::Start(store_.get(), keys, /*stop_at_first_miss=*/true);
  values = Values();
  EXPECT_EQ(values["tessera_cache_lookup_pieces_total{tier=\"ram\"}"], 3);
  EXPECT_EQ(values["tessera_cache_lookup_pieces_total{tier=\"none\"}"], 3);
}

TEST(LookupsTest, APieceBelowCountsForTheTierThatHasIt) {
  std::vector<std::unique_ptr<Tier>> tiers;
  tiers.push_back(MakeTestRamTier(1 << 20));
  tiers.push_back(MakeTestRamTier(1 << 20));
  ASSERT_TRUE(PutTestPiece(tiers[1].get(), 1, kShape).ok());
  ChunkStore store(std::move(tiers));
  FetchPieces::Start(&store, {TestKey(1), TestKey(2)}, /*stop_at_first_miss=*/false);
  const std::vector<LookupCounters> lookups = store.counters().lookups;
  ASSERT_EQ(lookups.size(), 3u);
  EXPECT_EQ(lookups[0].pieces, 0u);
  EXPECT_EQ(lookups[1].pieces, 1u);
  EXPECT_EQ(lookups[1].bytes, kShape.bytes());
  EXPECT_EQ(lookups[2].pieces, 1u);
  EXPECT_EQ(lookups[2].tier, "");
}

TEST_F(StoreSamplesTest, OpenCallsAreShown) {
  auto values = Values();
  EXPECT_EQ(values["tessera_cache_leases{transport=\"grpc\"}"], 2);
  EXPECT_EQ(values["tessera_cache_leases{transport=\"shm\"}"], 0);
  EXPECT_EQ(values["tessera_cache_open_stores"], 3);
}

TEST_F(StoreSamplesTest, NamesFollowEachOtherAndCountersSaySo) {
  absl::flat_hash_set<std::string> seen;
  std::string last;
  for (const MetricSample& sample : StoreSamples(Sources())) {
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
  metrics_->AddSource([this] { return StoreSamples(Sources()); });
  const std::string text = metrics_->Text();
  EXPECT_TRUE(
      absl::StrContains(text, "tessera_cache_tier_seconds_count{call=\"commit\",tier=\"ram\"} 1"))
      << text;
  EXPECT_TRUE(absl::StrContains(text, "tessera_cache_tier_entries{tier=\"ram\"} 1"));
  EXPECT_TRUE(absl::StrContains(text, "# TYPE tessera_cache_tier_hits_total counter"));
  metrics_->RemoveSources();
}

}  // namespace
}  // namespace tessera::testing
