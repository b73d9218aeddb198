// The blend over a real cache server: right at its borders, the same in every state of the cache.
#include "gpu_worker/blend/blender.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gpu_worker/blend/self_test.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/forwarding_client.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

constexpr const char* kPolicies[] = {"query_v", "query", "hkvd_v", "hkvd_k",       "first_k",
                                     "none",    "full",  "random", "query_v+first"};

int64_t CachedTokens(const Prefilled& done) {
  int64_t tokens = 0;
  for (const SegmentOutcome& segment : done.segments) tokens += segment.cached_tokens;
  return tokens;
}

TEST_F(TinyBlendTest, RatioOneIsAFullPrefill) {
  BlendRequest exact = TinyRequest({lead_, a_, b_, suffix_});
  exact.exact = true;
  const Prefilled full = worker_->Run(exact);
  for (const char* policy : {"query_v", "query", "hkvd_v", "hkvd_k", "full", "random"}) {
    for (bool correction : {false, true}) {
      BlendRequest request = TinyRequest({lead_, a_, b_, suffix_}, policy, 1.0);
      request.correction = correction;
      const Prefilled done = worker_->Run(request);
      EXPECT_EQ(done.picked.size(), a_.size() + b_.size());
      EXPECT_LT(KlOfLogits(full.logits, done.logits), 1e-3)
          << policy;  // the lead is rounded to bf16
    }
  }
  EXPECT_GT(
      KlOfLogits(full.logits, worker_->Run(TinyRequest({lead_, a_, b_, suffix_}, "none")).logits),
      1e-3);
}

TEST_F(TinyBlendTest, LeadAndSuffixAloneAreExact) {
  BlendRequest exact = TinyRequest({lead_, suffix_});
  exact.exact = true;
  const Prefilled full = worker_->Run(exact);
  for (int run = 0; run < 2; ++run) {
    const Prefilled done = worker_->Run(TinyRequest({lead_, suffix_}));
    EXPECT_LT(KlOfLogits(full.logits, done.logits), 1e-3);
    EXPECT_TRUE(done.segments[0].exact);
    EXPECT_EQ(CachedTokens(done), run == 0 ? 0 : static_cast<int64_t>(lead_.size()));
  }
}

TEST_F(TinyBlendTest, BehindTheLeadAsSinkTheFirstChunkIsExact) {
  BlendConfig config = TinyWorker::SmallPieces();
  config.sink = SinkKind::kLead;
  TinyWorker worker(client_.get(), config);
  BlendRequest exact = TinyRequest({lead_, a_, suffix_});
  exact.exact = true;
  const Prefilled full = worker.Run(exact),
                  done = worker.Run(TinyRequest({lead_, a_, suffix_}, "none"));
  EXPECT_LT(KlOfLogits(full.logits, done.logits), 2e-3);
}

TEST_F(TinyBlendTest, SameBytesColdWarmAfterRestartAndOnAnotherWorker) {
  for (const char* policy : kPolicies) {
    SCOPED_TRACE(policy);
    // A salt of its own makes the first run cold.
    BlendRequest request = TinyRequest({lead_, a_, b_, c_, suffix_}, policy);
    request.salt = policy;
    const Prefilled cold = worker_->Run(request), warm = worker_->Run(request);
    EXPECT_EQ(CachedTokens(cold), 0);
    EXPECT_EQ(CachedTokens(warm),
              static_cast<int64_t>(lead_.size() + a_.size() + b_.size() + c_.size()));
    EXPECT_EQ(cold.logits, warm.logits);
    EXPECT_EQ(cold.picked, warm.picked);
    TinyWorker other(client_.get());
    EXPECT_EQ(cold.logits, other.Run(request).logits);
    const auto no_cache = MakeNullCacheClient();
    EXPECT_EQ(cold.logits, TinyWorker(no_cache.get()).Run(request).logits);
  }
  server_->Stop(absl::ZeroDuration());
  BlendRequest request = TinyRequest({lead_, a_, b_, c_, suffix_});
  request.salt = "query_v";
  const Prefilled down = worker_->Run(request);
  EXPECT_EQ(CachedTokens(down), 0);
  StartServer();
  // The client may skip a server that failed for a while; an other client asks at once.
  const auto client = MakeCacheClient({.address = address()});
  ASSERT_TRUE(client.ok()) << client.status();
  TinyWorker after(client->get());
  const Prefilled restarted = after.Run(request);
  EXPECT_GT(CachedTokens(restarted), 0);
  EXPECT_EQ(down.logits, restarted.logits);
}

TEST_F(TinyBlendTest, ChunksHitInAnyOrderAndANewOneCostsOnlyItself) {
  worker_->Run(TinyRequest({lead_, a_, b_, c_, suffix_}));
  const Prefilled moved = worker_->Run(TinyRequest({lead_, c_, a_, b_, TinyTokens(9, 5)}));
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(moved.segments[i].cached_tokens, moved.segments[i].tokens) << "segment " << i;
    EXPECT_EQ(moved.segments[i].tier(), "ram");
  }
  EXPECT_TRUE(moved.fresh.empty());
  const std::vector<uint32_t> d = TinyTokens(11, 20);
  const Prefilled one_new = worker_->Run(TinyRequest({lead_, b_, d, a_, suffix_}));
  ASSERT_EQ(one_new.fresh.size(), 1u);
  EXPECT_EQ(one_new.segments[2].cached_tokens, 0);
  EXPECT_EQ(CachedTokens(one_new), static_cast<int64_t>(lead_.size() + b_.size() + a_.size()));
}

TEST_F(TinyBlendTest, RecomputedAndCorrectedRowsNeverReachTheCache) {
  for (const char* policy : kPolicies) {
    BlendRequest request = TinyRequest({lead_, a_, b_, c_, suffix_}, policy, 0.5);
    request.correction = true;
    worker_->Run(request);
    worker_->Run(TinyRequest({lead_, b_, c_, a_, suffix_}, policy, 0.9));
    const Prefilled again =
        worker_->Run(TinyRequest({lead_, TinyTokens(40, 18), c_, suffix_}, policy));
    EXPECT_FALSE(again.picked.empty() && std::string(policy) != "none");
  }
  // Whatever was stored is what a prefill of the segment alone gives, byte by byte.
  ChunkPrefill prefill(worker_->decoder.get());
  for (const std::vector<uint32_t>* tokens : {&a_, &b_, &c_}) {
    const std::vector<uint32_t> sink = {1};
    RawChunk alone(worker_->decoder->config(), static_cast<int64_t>(tokens->size()), 16),
        stored = RawChunk(worker_->decoder->config(), static_cast<int64_t>(tokens->size()), 16);
    ASSERT_TRUE(prefill.Run(sink, *tokens, 0, worker_->never.value(), alone).ok());
    const ChunkKey key = MakeChunkKey(worker_->fingerprint, "", sink, *tokens);
    std::vector<FetchTarget> targets;
    for (int64_t p = 0; p < stored.pieces(); ++p) {
      targets.push_back({PieceKeyOf(key, 16, p), static_cast<uint32_t>(stored.layers()),
                         static_cast<uint64_t>(stored.SliceBytes(p)), stored.PieceMemory(p)});
    }
    const auto stream = client_->Fetch(targets, {.timeout = absl::Seconds(10)});
    stream->WaitForHeader();
    for (int64_t p = 0; p < stored.pieces(); ++p) {
      for (uint32_t l = 0; l < 3; ++l) ASSERT_TRUE(stream->WaitForSlice(p, l));
      EXPECT_EQ(std::memcmp(alone.PieceMemory(p), stored.PieceMemory(p), alone.SliceBytes(p) * 3),
                0);
    }
  }
}

TEST_F(TinyBlendTest, ExactReadsAndStoresNothing) {
  BlendRequest request = TinyRequest({lead_, a_, suffix_});
  request.exact = true;
  worker_->Run(request);
  const Prefilled done = worker_->Run(request);
  EXPECT_EQ(CachedTokens(done), 0);
  EXPECT_TRUE(done.fresh.empty());
  EXPECT_EQ(entries(), 0u);
}

TEST_F(TinyBlendTest, SaltsShareNothing) {
  BlendRequest request = TinyRequest({lead_, a_, suffix_});
  worker_->Run(request);
  request.salt = "another tenant";
  EXPECT_EQ(CachedTokens(worker_->Run(request)), 0);
}

TEST_F(TinyBlendTest, AChunkWithoutItsLastPieceIsCompletedToTheSameResult) {
  const BlendRequest request = TinyRequest({lead_, a_, b_, suffix_});
  const Prefilled cold = worker_->Run(request);
  const std::vector<uint32_t> sink = {1};
  const ChunkKey key = MakeChunkKey(worker_->fingerprint, "", sink, a_);
  for (int64_t missing : {3, 1, 0}) {
    ASSERT_TRUE(store_->Erase(PieceKeyOf(key, 16, missing)));
    auto done = worker_->blender->Prefill(request, worker_->never);
    ASSERT_TRUE(done.ok());
    EXPECT_EQ(done->segments[1].cached_tokens, missing * 16);
    EXPECT_EQ(done->logits, cold.logits) << "without piece " << missing;
    ASSERT_EQ(done->fresh.size(), 1u);
    EXPECT_EQ(done->fresh[0].first_piece, missing);
  }
}

// A cache whose streams break at a layer.
class BreakingClient final : public ForwardingClient {
 public:
  BreakingClient(CacheClient* real, uint32_t layer) : ForwardingClient(real), layer_(layer) {}
  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override {
    return std::make_unique<Stream>(ForwardingClient::Fetch(std::move(targets), options), layer_);
  }

 private:
  class Stream final : public ForwardingStream {
   public:
    Stream(std::unique_ptr<FetchStream> real, uint32_t layer)
        : ForwardingStream(std::move(real)), layer_(layer) {}
    bool WaitForSlice(size_t target, uint32_t layer) override {
      return (layer < layer_ || target % 3 != 2) && ForwardingStream::WaitForSlice(target, layer);
    }

   private:
    const uint32_t layer_;
  };

  const uint32_t layer_;
};

TEST_F(TinyBlendTest, AStreamThatBreaksIsRecomputedToTheSameResult) {
  for (const char* policy : kPolicies) {
    const BlendRequest request = TinyRequest({lead_, a_, b_, c_, suffix_}, policy);
    worker_->Run(request);
    const Prefilled whole = worker_->Run(request);  // all from the cache
    for (uint32_t layer = 0; layer < 3; ++layer) {
      for (bool layerwise : {true, false}) {
        BreakingClient breaking(client_.get(), layer);
        BlendConfig config = TinyWorker::SmallPieces();
        config.layerwise = layerwise;
        TinyWorker worker(&breaking, config);
        const Prefilled done = worker.Run(request);
        EXPECT_EQ(done.logits, whole.logits) << policy << " breaks at layer " << layer;
        EXPECT_LT(CachedTokens(done), CachedTokens(whole));  // never counted as loaded
      }
    }
  }
}

// A cache that finds everything and sends nothing, until a fetch is cancelled.
class StuckClient final : public CacheClient {
 public:
  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions&) override {
    return std::make_unique<Stream>(this, targets.size());
  }
  size_t Store(const std::vector<StoreSource>&, const CallOptions&) override { return 0; }
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys, const CallOptions&) override {
    return std::vector<bool>(keys.size(), false);
  }
  ClientCounters counters() const override { return {}; }

  absl::Notification waiting;

 private:
  class Stream final : public FetchStream {
   public:
    Stream(StuckClient* client, size_t targets) : client_(*client), targets_(targets) {}
    std::vector<std::string> WaitForHeader() override {
      return std::vector<std::string>(targets_, "ram");
    }
    bool WaitForSlice(size_t, uint32_t) override {
      if (!client_.waiting.HasBeenNotified()) client_.waiting.Notify();
      cancelled_.WaitForNotification();
      return false;
    }
    bool HeaderReady() override { return true; }
    bool SliceReady(size_t, uint32_t) override {
      if (!client_.waiting.HasBeenNotified()) client_.waiting.Notify();
      return cancelled_.HasBeenNotified();
    }
    absl::Time ready_by() override { return absl::InfiniteFuture(); }
    absl::Span<const std::byte> Slices(size_t, uint32_t, uint32_t) override { return {}; }
    bool LeaseHeld() override { return true; }
    void Cancel() override { cancelled_.Notify(); }

   private:
    StuckClient& client_;
    const size_t targets_;
    absl::Notification cancelled_;
  };
};

TEST_F(TinyBlendTest, CancellingEndsTheWaitForTheCache) {
  for (bool layerwise : {true, false}) {
    StuckClient stuck;
    BlendConfig config = TinyWorker::SmallPieces();
    config.layerwise = layerwise;
    TinyWorker worker(&stuck, config);
    CancelFlag cancelled;
    std::thread canceller([&] {
      stuck.waiting.WaitForNotification();
      cancelled.Set();
    });
    const auto done = worker.blender->Prefill(TinyRequest({lead_, a_, suffix_}), cancelled);
    EXPECT_EQ(done.status().code(), absl::StatusCode::kCancelled);
    canceller.join();
  }
}

TEST_F(TinyBlendTest, CancelledRequestsStop) {
  CancelFlag cancelled;
  cancelled.Set();
  for (const char* policy : kPolicies) {
    const auto done =
        worker_->blender->Prefill(TinyRequest({lead_, a_, suffix_}, policy), cancelled);
    EXPECT_EQ(done.status().code(), absl::StatusCode::kCancelled) << policy;
  }
  EXPECT_EQ(entries(), 0u);
}

TEST_F(TinyBlendTest, SelfTestPasses) {
  const auto report = RunSelfTest(*worker_->decoder, worker_->config);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_LT(report->full_blend_kl, 1e-3);
  EXPECT_GT(report->seconds_per_token, 0);
}

}  // namespace
}  // namespace tessera
