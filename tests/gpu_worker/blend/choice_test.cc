// Requests that leave it open how they are prefilled: over a tiny model and a real cache server,
// with coefficients that leave no doubt.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/prompt_cost.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/forwarding_client.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

// Counts the questions that move no KV.
class CountingClient final : public ForwardingClient {
 public:
  using ForwardingClient::ForwardingClient;
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys,
                                const CallOptions& options) override {
    ++questions;
    if (silent) go_on.WaitForNotification();
    return ForwardingClient::FindMissing(keys, options);
  }

  int questions = 0;
  bool silent = false;  // until go_on
  absl::Notification go_on;
};

class ChoiceTest : public TinyBlendTest {
 protected:
  void SetUp() override {
    TinyBlendTest::SetUp();
    counting_ = std::make_unique<CountingClient>(client_.get());
    asking_ = std::make_unique<TinyWorker>(counting_.get());
  }

  // Each of these decides alone.
  void Costs(const CostCoefficients& coefficients) {
    costs_ = std::make_unique<CostModel>(coefficients);
    asking_->blender->set_costs(costs_.get());
  }

  BlendRequest Open() const {
    BlendRequest request = TinyRequest({lead_, a_, b_, suffix_});
    request.choose = true;
    return request;
  }

  // Rows cost something, all else nothing: cold, a blend computes more rows; warm, fewer.
  static CostCoefficients Rows() { return {.row = 1, .layers = 3, .kv_width = 64}; }

  std::unique_ptr<CostModel> costs_;
  std::unique_ptr<CountingClient> counting_;
  std::unique_ptr<TinyWorker> asking_;
};

TEST_F(ChoiceTest, WithoutACostModelItIsBlended) {
  const Prefilled done = asking_->Run(Open());
  EXPECT_TRUE(done.blended);
  EXPECT_FALSE(done.chosen);
  EXPECT_FALSE(done.cost.has_value());
}

TEST_F(ChoiceTest, ADearBlendIsAFullPrefillBehindItsPrefix) {
  Costs({.row = 1, .scored_pair = 1e6, .layers = 3});
  BlendRequest exact = Open();
  exact.exact = exact.prefixes = true;
  const Prefilled expected = worker_->Run(exact);  // its blocks are stored now
  const Prefilled done = asking_->Run(Open());
  EXPECT_FALSE(done.blended);
  EXPECT_TRUE(done.chosen);
  EXPECT_EQ(done.logits, expected.logits);
  EXPECT_EQ(done.segments[0].cached_tokens, static_cast<int64_t>(lead_.size()));
  EXPECT_TRUE(done.picked.empty());
  EXPECT_FALSE(done.wants_chunks) << "they would not be used";
  EXPECT_EQ(counting_->questions, 0) << "whatever the cache has, it is the same";
}

TEST_F(ChoiceTest, ACheapBlendIsTakenWithoutAQuestion) {
  Costs({.row = 1e-6, .pair = 1, .layers = 3});
  const Prefilled done = asking_->Run(Open());
  EXPECT_TRUE(done.blended);
  EXPECT_TRUE(done.chosen);
  EXPECT_EQ(counting_->questions, 0);
  EXPECT_EQ(done.logits, worker_->Run(Open()).logits);
}

TEST_F(ChoiceTest, OtherwiseItDependsOnWhatTheCacheHas) {
  Costs(Rows());
  BlendRequest request = Open();
  request.recompute_ratio = 0.5;
  const Prefilled cold = asking_->Run(request);
  EXPECT_FALSE(cold.blended);
  EXPECT_EQ(counting_->questions, 1);
  request.salt = "others have its prefix, not its chunks";
  BlendRequest blend = request;
  blend.choose = false;
  EXPECT_TRUE(asking_->Run(blend).blended) << "never overruled";
  EXPECT_EQ(counting_->questions, 1);
  const Prefilled warm = asking_->Run(request);
  EXPECT_TRUE(warm.blended);
  EXPECT_TRUE(warm.chosen);
  EXPECT_EQ(counting_->questions, 2);
  // With its exact prefix there too, that is fewer rows still.
  BlendRequest exact = request;
  exact.exact = exact.prefixes = true;
  asking_->Run(exact);
  EXPECT_FALSE(asking_->Run(request).blended);
}

TEST_F(ChoiceTest, HalfAChunkCountsForAHalf) {
  Costs(Rows());
  BlendRequest request = Open();
  request.recompute_ratio = 0.5;
  BlendRequest blend = request;
  blend.choose = false;
  asking_->Run(blend);
  request.store = false;  // so that nothing may cost more
  ASSERT_TRUE(asking_->Run(request).blended);
  // All but the first piece of each chunk: 16 of 50 and 16 of 33 rows are left.
  const std::vector<uint32_t> sink = {1};
  for (const auto* tokens : {&a_, &b_}) {
    const ChunkKey key = MakeChunkKey(asking_->fingerprint, "", sink, *tokens);
    ASSERT_TRUE(store_->Erase(PieceKeyOf(key, 16, 1)));
  }
  EXPECT_FALSE(asking_->Run(request).blended);
}

TEST_F(ChoiceTest, ACacheThatIsGoneHasNothing) {
  Costs(Rows());
  server_->Stop(absl::ZeroDuration());
  BlendRequest request = Open();
  request.recompute_ratio = 0.5;
  const Prefilled done = asking_->Run(request);
  EXPECT_FALSE(done.blended);
  EXPECT_EQ(done.segments.size(), 4u);
}

// Over a link that is slower than computing, some of what the cache has is computed all the same.
TEST_F(ChoiceTest, WhatIsFasterComputedIsNotFetched) {
  Costs({.row = 1e-3, .pair = 1e-5, .layers = 3, .kv_width = 64});
  BlendRequest request = Open();
  request.segments = {lead_, TinyTokens(7, 100), TinyTokens(8, 100), TinyTokens(9, 100), suffix_};
  BlendRequest blend = request;
  blend.choose = false;
  const Prefilled cold = asking_->Run(blend), fast = asking_->Run(request);
  EXPECT_EQ(fast.segments[3].cached_tokens, 100);
  std::vector<int64_t> cached;
  PullChoice last;
  for (double seconds : {0.1, 1.0, 10.0, 100.0, 1e3, 1e4}) {
    for (int i = 0; i < 100; ++i) costs_->ObserveFetch(1 << 20, seconds, /*link_bound=*/true);
    const Prefilled done = asking_->Run(request);
    ASSERT_TRUE(done.blended);
    EXPECT_EQ(done.logits, cold.logits);
    EXPECT_TRUE(done.fresh.empty()) << "the cache has it";
    cached.push_back(0);
    for (const SegmentOutcome& segment : done.segments) cached.back() += segment.cached_tokens;
    last = done.pulls;
  }
  EXPECT_EQ(cached.front(), 312) << "120 kB at 10 MB/s";
  EXPECT_LT(cached.back(), 40) << "and at 10 kB/s, the slowest that is believed";
  EXPECT_TRUE(std::is_sorted(cached.rbegin(), cached.rend()));
  EXPECT_EQ(last.pulled, cached.back());
  EXPECT_EQ(last.pulled + last.recomputed, 312);
}

TEST_F(ChoiceTest, OverASlowLinkAPrefixIsComputed) {
  Costs({.row = 1e-3, .scored_pair = 1e3, .layers = 3});
  BlendRequest exact = Open();
  exact.exact = exact.prefixes = true;
  const Prefilled stored = worker_->Run(exact);
  for (int i = 0; i < 100; ++i) costs_->ObserveFetch(1 << 20, 1e6, /*link_bound=*/true);
  const Prefilled done = asking_->Run(Open());
  EXPECT_FALSE(done.blended);
  EXPECT_EQ(done.segments[0].cached_tokens, 0);
  EXPECT_TRUE(done.fresh.empty());
  EXPECT_EQ(done.logits, stored.logits);
  EXPECT_EQ(done.pulls.pulled, 0);
  EXPECT_EQ(done.pulls.recomputed, 0) << "nobody asked what is there";
}

TEST_F(ChoiceTest, NobodyWaitsForACacheThatDoesNotAnswer) {
  Costs(Rows());
  counting_->silent = true;
  BlendRequest request = Open();
  request.recompute_ratio = 0.5;
  KvMemory kv(asking_->decoder->config(), request.Tokens());
  auto steps = asking_->blender->Prefilling(request, {std::move(kv)}, asking_->never);
  const absl::Time start = absl::Now();
  EXPECT_EQ(steps.Step(), StepState::kWaiting) << "the thread may do other work";
  EXPECT_LE(steps.waits_until(), start + absl::Seconds(10));
  StepState state = StepState::kWaiting;
  while (state == StepState::kWaiting && absl::Now() < steps.waits_until()) state = steps.Step();
  EXPECT_GE(absl::Now(), start + absl::Milliseconds(100)) << "for a while it may still answer";
  while (state != StepState::kDone) state = steps.Step();
  const auto done = steps.TakeResult();
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_FALSE(done->blended);
  counting_->go_on.Notify();
}

// Questions are refused past a bound, and each answer is for its own keys.
TEST_F(ChoiceTest, QuestionsAreBounded) {
  counting_->silent = true;
  absl::Mutex mutex;
  int answers = 0;
  CacheQuestions questions(counting_.get(), [&] {
    absl::MutexLock lock(&mutex);
    ++answers;
  });
  std::vector<std::shared_ptr<MissingKeys>> asked;
  while (auto answer = questions.Ask(std::vector<ChunkKey>(asked.size() + 1), absl::Seconds(9))) {
    asked.push_back(answer);
    EXPECT_FALSE(answer->ready());
    ASSERT_LE(asked.size(), CacheQuestions::kMost + 1);
  }
  EXPECT_GE(asked.size(), CacheQuestions::kMost);
  counting_->go_on.Notify();
  auto all = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return answers == static_cast<int>(asked.size());
  };
  {
    absl::MutexLock lock(&mutex);
    mutex.Await(absl::Condition(&all));
  }
  for (size_t i = 0; i < asked.size(); ++i) EXPECT_EQ(asked[i]->Take().size(), i + 1);
}

TEST_F(ChoiceTest, HindsightIsWhatTheChoiceWas) {
  Costs(Rows());
  Prefilled done = asking_->Run(Open());  // cold
  asking_->blender->Learn(Open(), absl::Seconds(10), &done);
  ASSERT_TRUE(done.cost.has_value());
  EXPECT_EQ(done.cost->compute_seconds, 10);
  EXPECT_GT(done.cost->full_seconds, 0);
  const auto tokens = static_cast<double>(Open().Tokens());
  if (done.blended) {
    EXPECT_EQ(done.cost->predicted.prefill_compute,
              static_cast<double>(lead_.size() + a_.size() + b_.size()));
  } else {
    EXPECT_EQ(done.cost->predicted.prefill_compute, tokens);
  }
  BlendRequest blend = Open();
  blend.choose = false;
  asking_->Run(blend);
  Prefilled warm = asking_->Run(blend);
  for (int i = 0; i < 50; ++i) {
    asking_->blender->Learn(blend, absl::Seconds(60), &warm);
  }
  EXPECT_EQ(warm.cost->predicted.kind, PrefillKind::kQuery);
  EXPECT_EQ(warm.cost->predicted.prefill_compute, 0);
  // Of a full prefill that finds nothing, though here all is cached.
  EXPECT_NEAR(warm.cost->full_seconds, costs_->FactorOf(PrefillKind::kFull) * tokens, 1e-6);
  // The query pass, and the recompute: 2 x 9 rows of the suffix and a quarter of 83.
  EXPECT_NEAR(costs_->FactorOf(PrefillKind::kQuery), 60 / 38.75, 0.2);
}

TEST(PromptCostTest, WhatIsPulledAndWhatIsComputedInstead) {
  PromptShape shape;
  shape.chunks = {{.tokens = 10, .cached = 10, .resident = 10},
                  {.tokens = 100, .cached = 80},
                  {.tokens = 100, .cached = 64}};
  PullChoice pulls = PullsOf({.blend = true, .taken = {10, 100, 32}}, shape);
  EXPECT_EQ(pulls.pulled, 80 + 32);
  EXPECT_EQ(pulls.recomputed, 32);
  pulls = PullsOf({.blend = false}, shape);
  EXPECT_EQ(pulls.pulled, 0);
  EXPECT_EQ(pulls.recomputed, 80 + 64);
  shape.prefix = 110;
  shape.resident_prefix = 10;
  pulls = PullsOf({.blend = false, .fetch_prefix = true}, shape);
  EXPECT_EQ(pulls.pulled, 100);
  EXPECT_EQ(pulls.recomputed, 44) << "of the tokens that are there as chunks";
  EXPECT_EQ(PullsOf({.blend = false, .fetch_prefix = true}, PromptShape()).pulled, 0);
}

TEST(PromptCostTest, PoliciesAreShapes) {
  const ModelConfig model = {.layers = 3, .kv_heads = 2, .head_dim = 16};
  BlendConfig config;
  config.first_k = 4;
  auto shape = [&](const std::string& policy) {
    return ShapeOf(TinyRequest({{1, 2}, {3, 4, 5}, {6}}, policy, 0.25), config, model);
  };
  EXPECT_EQ(shape("query_v").kind, PrefillKind::kQuery);
  EXPECT_EQ(shape("hkvd_k").kind, PrefillKind::kDeviation);
  EXPECT_EQ(shape("first_k").kind, PrefillKind::kStatic);
  EXPECT_EQ(shape("query_v").ratio, 0.25);
  EXPECT_EQ(shape("random").ratio, 0.25);
  EXPECT_EQ(shape("none").ratio, 0);
  EXPECT_EQ(shape("full").ratio, 1);
  EXPECT_EQ(shape("first_k").ratio, 0);
  EXPECT_EQ(shape("first_k").first_rows, 4);
  EXPECT_EQ(shape("query_v+first").first_rows, 4);
  EXPECT_EQ(shape("query_v").first_rows, 0);
  EXPECT_EQ(shape("query_v").tokens(), 6);
  EXPECT_EQ(shape("query_v").suffix, 1);
  EXPECT_TRUE(shape("query_v").chunks[0].exact);
  EXPECT_FALSE(shape("query_v").chunks[1].exact);
  EXPECT_EQ(shape("query_v").bytes_per_token, 3 * 2 * 2 * 16 * 2);
  config.sink = SinkKind::kLead;
  EXPECT_TRUE(shape("query_v").chunks[1].exact);
}

}  // namespace
}  // namespace tessera
