// Loads over a real cache server: shared between requests, never waiting unless asked to.
#include "gpu_worker/blend/kv_loader.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/chunk_hash.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

constexpr absl::Duration kLong = absl::Seconds(30);
constexpr int64_t kLastLayer = 2;

using Found = std::vector<TierTokens>;

class KvLoaderTest : public TinyBlendTest {
 protected:
  void SetUp() override {
    TinyBlendTest::SetUp();
    prefill_ = std::make_unique<ChunkPrefill>(worker_->decoder.get());
  }

  WantedChunk Want(const std::vector<uint32_t>& tokens) const {
    return {MakeChunkKey(worker_->fingerprint, "", sink_, tokens), sink_, tokens, Tenant(),
            ChunkHash("", tokens)};
  }

  std::unique_ptr<KvLoader> Begin(const std::vector<const std::vector<uint32_t>*>& segments) {
    auto loader = std::make_unique<KvLoader>(worker_->decoder.get(), client_.get(), prefill_.get(),
                                             &pool_, 16, &worker_->never);
    std::vector<WantedChunk> wanted;
    for (const std::vector<uint32_t>* segment : segments) wanted.push_back(Want(*segment));
    loader->Begin(wanted, kLong);
    return loader;
  }

  // Puts chunks into the cache server.
  void Store(const std::vector<std::vector<uint32_t>>& segments) {
    std::vector<std::vector<uint32_t>> prompt = {lead_};
    prompt.insert(prompt.end(), segments.begin(), segments.end());
    prompt.push_back(suffix_);
    worker_->Run(TinyRequest(prompt));
  }

  static int Pieces(const std::vector<uint32_t>& tokens) {
    return static_cast<int>(tokens.size() + 15) / 16;
  }

  // Whether it is what a prefill of the segment alone gives, byte by byte.
  bool IsAlone(const RawChunk& chunk, const std::vector<uint32_t>& tokens) {
    RawChunk alone(worker_->decoder->config(), static_cast<int64_t>(tokens.size()), 16);
    EXPECT_TRUE(prefill_->Run(sink_, tokens, 0, worker_->never.value(), alone).ok());
    return std::memcmp(alone.PieceMemory(0), chunk.PieceMemory(0), alone.bytes()) == 0;
  }

  void Compute(PieceClaim& claim) {
    const std::atomic<bool>& never = worker_->never.value();
    if (claim.kv().capacity() == 0) {
      auto kv = prefill_->Begin(claim.sink(), claim.piece(), never, claim.chunk());
      ASSERT_TRUE(kv.ok());
      claim.kv() = *std::move(kv);
    }
    ASSERT_TRUE(prefill_
                    ->RunPiece(static_cast<int64_t>(claim.sink().size()), claim.tokens(),
                               claim.piece(), never, claim.kv(), claim.chunk())
                    .ok());
    claim.Done();
  }

  void WaitFor(KvLoader& loader) { EXPECT_TRUE(loader.WaitForLayer(kLastLayer).ok()); }

  const std::vector<uint32_t> sink_ = {1};
  ChunkPool pool_{1 << 20};
  std::unique_ptr<ChunkPrefill> prefill_;
};

TEST_F(KvLoaderTest, TwoRequestsFetchAChunkOnce) {
  Store({a_, b_, c_});
  const int before = control_->gets();
  const auto one = Begin({&a_, &b_}), two = Begin({&b_, &c_});
  WaitFor(*one);
  WaitFor(*two);
  EXPECT_EQ(control_->gets() - before, Pieces(a_) + Pieces(b_) + Pieces(c_));
  EXPECT_EQ(&one->chunk(1), &two->chunk(0));
  EXPECT_TRUE(IsAlone(one->chunk(0), a_) && IsAlone(one->chunk(1), b_));
  EXPECT_TRUE(IsAlone(two->chunk(1), c_));
  for (const auto& [loader, tokens] : {std::pair(one.get(), &b_), std::pair(two.get(), &c_)}) {
    EXPECT_EQ(loader->cached_tokens(1), static_cast<int64_t>(tokens->size()));
    EXPECT_EQ(loader->found(1), (Found{{"ram", static_cast<int64_t>(tokens->size())}}));
    EXPECT_TRUE(loader->TakeFresh().empty());
  }
  EXPECT_EQ(pool_.stats().joined, 1u);
  EXPECT_EQ(pool_.stats().misses, 3u);
}

TEST_F(KvLoaderTest, AResidentChunkIsNotFetched) {
  Store({a_});
  WaitFor(*Begin({&a_}));
  const int before = control_->gets();
  const auto again = Begin({&a_});
  EXPECT_EQ(again->Poll(kLastLayer), LoadState::kReady);
  EXPECT_EQ(control_->gets(), before);
  EXPECT_EQ(again->found(0), (Found{{kWorkerTier, static_cast<int64_t>(a_.size())}}));
  EXPECT_EQ(again->cached_tokens(0), static_cast<int64_t>(a_.size()));
  EXPECT_TRUE(IsAlone(again->chunk(0), a_));
  EXPECT_EQ(pool_.stats().hits, 1u);
}

TEST_F(KvLoaderTest, WhoLeavesDoesNotEndWhatOthersWant) {
  Store({a_, b_});
  const int before = control_->gets();
  auto one = Begin({&a_, &b_});
  const auto two = Begin({&b_});
  one.reset();
  WaitFor(*two);
  EXPECT_EQ(two->cached_tokens(0), static_cast<int64_t>(b_.size()));
  EXPECT_TRUE(IsAlone(two->chunk(0), b_));
  EXPECT_EQ(control_->gets() - before, Pieces(a_) + Pieces(b_));
}

TEST_F(KvLoaderTest, WhenAllHaveLeftTheLoadEnds) {
  Store({a_});
  control_->CloseGate();
  auto one = Begin({&a_}), two = Begin({&a_});
  one.reset();
  EXPECT_NE(pool_.FindLoad(Want(a_).key), nullptr);
  two.reset();
  EXPECT_EQ(pool_.FindLoad(Want(a_).key), nullptr);
  control_->OpenGate();
  EXPECT_TRUE(control_->WaitForNoPins(kLong));
  EXPECT_EQ(pool_.stats().resident_chunks, 0);
}

TEST_F(KvLoaderTest, PollNeverWaitsForTheCache) {
  Store({a_});
  control_->CloseGate();
  const auto loader = Begin({&a_});
  control_->WaitForArrivals(1);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(loader->Poll(0), LoadState::kWait);
  EXPECT_FALSE(loader->ClaimPiece().has_value());
  control_->OpenGate();
  WaitFor(*loader);
  EXPECT_TRUE(IsAlone(loader->chunk(0), a_));
}

TEST_F(KvLoaderTest, AMissingChunkIsComputedOnceForAll) {
  const auto one = Begin({&a_}), two = Begin({&a_});
  while (one->Poll(0) == LoadState::kWait) pool_.AwaitProgress(one->ready_by());
  for (int piece = 0; piece < Pieces(a_); ++piece) {
    // Whoever comes first computes it, in turns here; the other waits.
    KvLoader& first = piece % 2 == 0 ? *one : *two;
    KvLoader& other = piece % 2 == 0 ? *two : *one;
    std::optional<PieceClaim> claim = first.ClaimPiece();
    ASSERT_TRUE(claim.has_value());
    EXPECT_EQ(claim->piece(), piece);
    EXPECT_EQ(other.Poll(0), LoadState::kWait);
    EXPECT_FALSE(other.ClaimPiece().has_value());
    Compute(*claim);
  }
  EXPECT_EQ(one->Poll(kLastLayer), LoadState::kReady);
  EXPECT_EQ(two->Poll(kLastLayer), LoadState::kReady);
  EXPECT_TRUE(IsAlone(two->chunk(0), a_));
  EXPECT_EQ(one->cached_tokens(0), 0);
  // Stored once, and resident from then on.
  EXPECT_EQ(pool_.stats().resident_chunks, 0);
  ASSERT_EQ(two->TakeFresh().size(), 1u);
  EXPECT_TRUE(one->TakeFresh().empty());
  EXPECT_EQ(pool_.stats().resident_chunks, 1);
  EXPECT_EQ(Begin({&a_})->found(0)[0].tier, kWorkerTier);
}

TEST_F(KvLoaderTest, AClaimThatIsGivenUpIsTakenUpByTheOther) {
  auto one = Begin({&a_});
  const auto two = Begin({&a_});
  while (one->Poll(0) == LoadState::kWait) pool_.AwaitProgress(one->ready_by());
  {
    const std::optional<PieceClaim> claim = one->ClaimPiece();
    ASSERT_TRUE(claim.has_value());
    EXPECT_EQ(two->Poll(0), LoadState::kWait);
    one.reset();  // cancelled in the middle of the piece
  }
  EXPECT_EQ(two->Poll(0), LoadState::kPrefill);
  WaitFor(*two);
  EXPECT_TRUE(IsAlone(two->chunk(0), a_));
}

TEST_F(KvLoaderTest, WhatMayNotBeKeptIsNot) {
  WaitFor(*Begin({&a_}));  // computed, and TakeFresh not called
  EXPECT_EQ(pool_.stats().resident_chunks, 0);
  EXPECT_EQ(entries(), 0u);
}

TEST_F(KvLoaderTest, APartIsCompletedOnceForAll) {
  Store({a_});
  ASSERT_TRUE(store_->Erase(PieceKeyOf(Want(a_).key, 16, 2)));
  const auto one = Begin({&a_}), two = Begin({&a_});
  WaitFor(*two);
  WaitFor(*one);
  for (const auto& loader : {one.get(), two.get()}) {
    EXPECT_EQ(loader->cached_tokens(0), 32);
    EXPECT_EQ(loader->found(0), (Found{{"ram", 32}}));
    EXPECT_TRUE(IsAlone(loader->chunk(0), a_));
  }
  const std::vector<FreshChunk> fresh = one->TakeFresh();
  ASSERT_EQ(fresh.size(), 1u);
  EXPECT_EQ(fresh[0].first_piece, 2);
}

TEST_F(KvLoaderTest, ACacheThatDiesInMidLoadIsAMissForAll) {
  Store({a_, b_});
  control_->CloseGate();
  const auto one = Begin({&a_, &b_}), two = Begin({&b_});
  control_->WaitForArrivals(1);
  std::thread stopper([&] { server_->Stop(absl::ZeroDuration()); });
  WaitFor(*one);
  WaitFor(*two);
  EXPECT_TRUE(IsAlone(one->chunk(0), a_) && IsAlone(one->chunk(1), b_));
  EXPECT_EQ(&one->chunk(1), &two->chunk(0)) << "computed once";
  EXPECT_EQ(one->cached_tokens(0) + two->cached_tokens(0), 0);
  EXPECT_TRUE(one->found(0).empty());
  control_->OpenGate();
  stopper.join();
}

TEST_F(KvLoaderTest, CancellingWakesWhoWaits) {
  Store({a_});
  control_->CloseGate();
  CancelFlag cancelled;
  KvLoader loader(worker_->decoder.get(), client_.get(), prefill_.get(), &pool_, 16, &cancelled);
  loader.Begin({Want(a_)}, kLong);
  std::thread canceller([&] {
    control_->WaitForArrivals(1);
    cancelled.Set();
  });
  EXPECT_EQ(loader.WaitForLayer(0).code(), absl::StatusCode::kCancelled);
  canceller.join();
  control_->OpenGate();
}

TEST_F(KvLoaderTest, TheSameChunkTwiceInAPromptIsLoadedOnce) {
  Store({a_});
  const int before = control_->gets();
  const auto loader = Begin({&a_, &a_});
  WaitFor(*loader);
  EXPECT_EQ(control_->gets() - before, Pieces(a_));
  EXPECT_EQ(&loader->chunk(0), &loader->chunk(1));
}

// What a blend gives is the same to the last bit, whether chunks stay or not.
TEST_F(KvLoaderTest, ThePoolChangesNoResult) {
  ChunkPool large(1 << 20), small(20'000);
  TinyWorker with_large(client_.get(), TinyWorker::SmallPieces(), &large),
      with_small(client_.get(), TinyWorker::SmallPieces(), &small);
  const auto no_cache = MakeNullCacheClient();
  TinyWorker without(no_cache.get());
  for (const char* policy : {"query_v", "hkvd_v", "query_v+first", "none"}) {
    for (const auto& middle : {std::vector{a_, b_, c_}, std::vector{c_, a_}, std::vector{b_, a_}}) {
      std::vector<std::vector<uint32_t>> prompt = {lead_};
      prompt.insert(prompt.end(), middle.begin(), middle.end());
      prompt.push_back(suffix_);
      BlendRequest request = TinyRequest(prompt, policy, 0.5);
      request.correction = true;
      const Prefilled wanted = without.Run(request);
      for (TinyWorker* worker : {&with_large, &with_small}) {
        const Prefilled done = worker->Run(request);
        EXPECT_EQ(done.logits, wanted.logits) << policy;
        EXPECT_EQ(done.picked, wanted.picked) << policy;
      }
    }
  }
  EXPECT_GT(large.stats().hits, 20u);
  EXPECT_EQ(large.stats().evictions, 0u);
  EXPECT_GT(small.stats().evictions, 5u);
  // Nothing that a blend recomputed or corrected got in.
  for (const std::vector<uint32_t>* tokens : {&a_, &b_, &c_}) {
    const std::shared_ptr<const RawChunk> resident = large.Find(Want(*tokens).key);
    ASSERT_NE(resident, nullptr);
    EXPECT_TRUE(IsAlone(*resident, *tokens));
  }
}

}  // namespace
}  // namespace tessera
