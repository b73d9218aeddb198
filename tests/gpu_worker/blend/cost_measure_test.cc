// What is measured of the device and of the cache. Nothing here depends on how fast they are.
#include "gpu_worker/blend/cost_measure.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/metrics.h"
#include "gpu_worker/blend/metered_client.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/forwarding_client.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

TEST_F(TinyBlendTest, EveryCostIsANumberAboveZero) {
  const CostCoefficients costs = MeasureCosts(*worker_->decoder);
  for (double cost : {costs.row, costs.pair, costs.scored_pair, costs.placed_row, costs.correction,
                      costs.logits}) {
    EXPECT_GT(cost, 0);
    EXPECT_TRUE(std::isfinite(cost));
  }
  EXPECT_GE(costs.pass, 0);
  EXPECT_EQ(costs.layers, 3);
  EXPECT_EQ(costs.kv_width, 64);
}

TEST_F(TinyBlendTest, MeasuringChangesNoResult) {
  const BlendRequest request = TinyRequest({lead_, a_, suffix_});
  const std::vector<float> before = worker_->Run(request).logits;
  MeasureCosts(*worker_->decoder);
  EXPECT_EQ(worker_->Run(request).logits, before);
}

// Hands every slice out only after a while, the same for all.
class SlowClient final : public ForwardingClient {
 public:
  SlowClient(CacheClient* real, absl::Duration delay) : ForwardingClient(real), delay_(delay) {}
  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override {
    return std::make_unique<Stream>(ForwardingClient::Fetch(std::move(targets), options), delay_);
  }
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys,
                                const CallOptions& options) override {
    absl::SleepFor(delay_);
    return ForwardingClient::FindMissing(keys, options);
  }

 private:
  class Stream final : public ForwardingStream {
   public:
    Stream(std::unique_ptr<FetchStream> real, absl::Duration delay)
        : ForwardingStream(std::move(real)), delay_(delay) {}
    std::vector<std::string> WaitForHeader() override {
      absl::SleepFor(delay_);
      return ForwardingStream::WaitForHeader();
    }
    bool WaitForSlice(size_t target, uint32_t layer) override {
      absl::SleepFor(delay_);
      return ForwardingStream::WaitForSlice(target, layer);
    }

   private:
    const absl::Duration delay_;
  };

  const absl::Duration delay_;
};

class MeteredClientTest : public TinyBlendTest {
 protected:
  static BlendConfig LargePieces() {
    BlendConfig config;
    config.tokens_per_piece = 256;
    return config;
  }

  CostModel costs_{CostCoefficients{.row = 1}};
};

TEST_F(MeteredClientTest, ASlowCacheIsNoticed) {
  constexpr absl::Duration kDelay = absl::Milliseconds(5);
  SlowClient slow(client_.get(), kDelay);
  const std::unique_ptr<Metrics> metrics = Metrics::Make();
  MeteredCacheClient metered(&slow, {&costs_, metrics->AddLatency("lookups", "Lookups.", {}),
                                     metrics->AddLatency("fetches", "Fetches.", {})});
  TinyWorker worker(&metered, LargePieces());
  BlendRequest request = TinyRequest({lead_, TinyTokens(7, 240), TinyTokens(8, 240), suffix_});
  const Prefilled cold = worker.Run(request);
  EXPECT_EQ(costs_.fetch_bytes_per_second(), 1e9) << "nothing came";
  const double lookup = costs_.lookup_seconds();
  EXPECT_GT(lookup, 1e-3);
  for (int i = 0; i < 10; ++i) {
    const absl::Duration before = costs_.waited();
    EXPECT_EQ(worker.Run(request).logits, cold.logits);
    // The header, and three layers of three targets.
    EXPECT_GE(costs_.waited() - before, 10 * kDelay);
  }
  // 492 tokens of 384 bytes are too few to tell a speed from.
  EXPECT_EQ(costs_.fetch_bytes_per_second(), 1e9);
  EXPECT_GE(costs_.lookup_seconds(), absl::ToDoubleSeconds(kDelay) * 0.75);
  EXPECT_NE(metrics->Text().find("lookups_count 11"), std::string::npos) << metrics->Text();
  EXPECT_NE(metrics->Text().find("fetches_count 10"), std::string::npos) << metrics->Text();
  const absl::Duration before = costs_.waited();
  EXPECT_EQ(metered.FindMissing({ChunkKey()}, absl::Seconds(10)), std::vector<bool>{true});
  EXPECT_EQ(costs_.waited(), before) << "nobody who computes waits for that";
}

TEST_F(MeteredClientTest, ItsBytesGiveTheSpeed) {
  // One piece of one slice of a megabyte.
  constexpr size_t kBytes = 1 << 20;
  const std::vector<std::byte> stored(kBytes, std::byte{7});
  std::vector<std::byte> read(kBytes);
  const ChunkKey key = MakePrefixRoot(ChunkKey(), "a key");
  ASSERT_EQ(client_->Store({{key, 1, kBytes, stored.data()}}, absl::Seconds(10)), 1u);
  SlowClient slow(client_.get(), absl::Milliseconds(20));
  MeteredCacheClient metered(&slow, {&costs_});
  for (int i = 0; i < 12; ++i) {
    const auto stream = metered.Fetch({{key, 1, kBytes, read.data()}}, {});
    EXPECT_EQ(stream->WaitForHeader(), std::vector<std::string>{"ram"});
    ASSERT_TRUE(stream->WaitForSlice(0, 0));
    ASSERT_TRUE(stream->WaitForSlice(0, 0)) << "counted once";
    EXPECT_TRUE(stream->LeaseHeld());
    EXPECT_EQ(stream->Slice(0, 0)[0], std::byte{7});
  }
  EXPECT_LT(costs_.fetch_bytes_per_second(), 2e8);
  EXPECT_EQ(read, stored);
}

}  // namespace
}  // namespace tessera
