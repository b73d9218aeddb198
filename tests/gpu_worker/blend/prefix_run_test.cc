// Exact prefixes: the second turn of a chat computes only what is new, and says the same.
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

constexpr int64_t kBlock = 16;  // TinyWorker's

class PrefixRunTest : public TinyBlendTest {
 protected:
  static BlendRequest Turn(const std::vector<std::vector<uint32_t>>& segments,
                           const std::string& salt = "") {
    BlendRequest request = TinyRequest(segments);
    request.exact = true;
    request.prefixes = true;
    request.salt = salt;
    return request;
  }

  static int64_t CachedTokens(const Prefilled& prefilled) {
    int64_t tokens = 0;
    for (const SegmentOutcome& segment : prefilled.segments) tokens += segment.cached_tokens;
    return tokens;
  }

  const std::vector<uint32_t> first_ = TinyTokens(7, 70);
  std::vector<uint32_t> second_ = first_;

  void SetUp() override {
    TinyBlendTest::SetUp();
    const std::vector<uint32_t> more = TinyTokens(8, 45);
    second_.insert(second_.end(), more.begin(), more.end());
  }
};

TEST_F(PrefixRunTest, ASecondTurnComputesOnlyWhatIsNew) {
  EXPECT_EQ(CachedTokens(worker_->Run(Turn({first_}))), 0);
  const Prefilled second = worker_->Run(Turn({second_}));
  EXPECT_EQ(CachedTokens(second), 4 * kBlock);
  EXPECT_EQ(second.segments[0].tier(), "ram");
  EXPECT_TRUE(second.segments[0].exact);
  EXPECT_EQ(CachedTokens(worker_->Run(Turn({second_}))), 7 * kBlock);
  // Nobody's prefix is another's.
  const Prefilled cold = worker_->Run(Turn({second_}, "another salt"));
  EXPECT_EQ(CachedTokens(cold), 0);
  EXPECT_EQ(second.logits, cold.logits);
}

TEST_F(PrefixRunTest, TheLastTokenIsAlwaysComputed) {
  for (const int tokens : {1, 15, 16, 17, 32, 33}) {
    const BlendRequest request = Turn({TinyTokens(20, tokens)}, std::to_string(tokens));
    const Prefilled cold = worker_->Run(request), warm = worker_->Run(request);
    EXPECT_EQ(CachedTokens(warm), (tokens - 1) / kBlock * kBlock) << tokens << " tokens";
    EXPECT_EQ(cold.logits, warm.logits);
  }
}

TEST_F(PrefixRunTest, AnEarlierDifferenceEndsThePrefix) {
  worker_->Run(Turn({second_}));
  std::vector<uint32_t> other = second_;
  other[2 * kBlock] ^= 1;
  EXPECT_EQ(CachedTokens(worker_->Run(Turn({other}))), 2 * kBlock);
  other[0] ^= 1;
  EXPECT_EQ(CachedTokens(worker_->Run(Turn({other}))), 0);
}

TEST_F(PrefixRunTest, CountsBySegment) {
  const std::vector<uint32_t> a(second_.begin(), second_.begin() + 40),
      b(second_.begin() + 40, second_.end());
  worker_->Run(Turn({first_}));
  const Prefilled cut = worker_->Run(Turn({a, b}));  // the same tokens, whatever the segments
  EXPECT_EQ(cut.segments[0].cached_tokens, 40);
  EXPECT_EQ(cut.segments[1].cached_tokens, 4 * kBlock - 40);
  EXPECT_EQ(cut.segments[0].found, (std::vector<TierTokens>{{"ram", 40}}));
  EXPECT_EQ(cut.segments[1].found, (std::vector<TierTokens>{{"ram", 4 * kBlock - 40}}));
}

TEST_F(PrefixRunTest, StoresNothingThatIsNotToBeStored) {
  BlendRequest request = Turn({first_});
  request.store = false;
  worker_->Run(request);
  EXPECT_EQ(entries(), 0u);
}

TEST_F(PrefixRunTest, WithoutACacheTheAnswerIsTheSame) {
  worker_->Run(Turn({first_}));
  const Prefilled warm = worker_->Run(Turn({second_}));
  const std::unique_ptr<CacheClient> none = MakeNullCacheClient();
  TinyWorker alone(none.get());
  EXPECT_EQ(alone.Run(Turn({second_})).logits, warm.logits);
}

TEST_F(PrefixRunTest, IsNearlyAPlainPrefill) {
  worker_->Run(Turn({first_}));
  const Prefilled warm = worker_->Run(Turn({second_}));
  BlendRequest plain = Turn({second_});
  plain.prefixes = false;
  const Prefilled full = worker_->Run(plain);
  for (size_t i = 0; i < full.logits.size(); ++i) {
    EXPECT_NEAR(warm.logits[i], full.logits[i], 0.05 + 0.02 * std::abs(full.logits[i]));
  }
}

TEST_F(PrefixRunTest, ACancelledRequestIsNotComputed) {
  CancelFlag cancelled;
  cancelled.Set();
  EXPECT_EQ(worker_->blender->Prefill(Turn({first_}), cancelled).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace tessera
