// The drift of sampled requests, over a tiny model, with the real engine.
#include "gpu_worker/serve/drift.h"

#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gpu_worker/blend/self_test.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/serve/worker_fixture.h"

namespace tessera {
namespace {

// Keeps what it is shown.
class Values final : public ValueHistogram {
 public:
  void Observe(double value) override {
    absl::MutexLock lock(&mutex_);
    values_.push_back(value);
  }
  std::vector<double> values() {
    absl::MutexLock lock(&mutex_);
    return values_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<double> values_ ABSL_GUARDED_BY(mutex_);
};

class DriftTest : public WorkerFixture {
 protected:
  void Sample(double share) {
    sampler_ = std::make_unique<DriftSampler>(share, worker_->decoder.get(), &kl_);
    drift_ = sampler_.get();
    StartWorker(/*queue=*/64);
  }
  void TearDown() override {
    WorkerFixture::TearDown();
    sampler_.reset();
  }

  GenerateRequest Blended(const std::string& policy, float ratio, uint32_t tokens) const {
    GenerateRequest request = Request({lead_, a_, b_, c_, suffix_}, tokens);
    request.mutable_blend()->set_mode(worker::v1::BLEND);
    request.mutable_blend()->set_policy(policy);
    request.mutable_blend()->set_recompute_ratio(ratio);
    return request;
  }

  // The engine compares between requests: this gives it some that are not sampled.
  DriftSampler::Counters AwaitMeasured(uint64_t count) {
    while (sampler_->counters().measured < count) {
      EXPECT_TRUE(Generate(Request({suffix_}, 1)).status.ok());
    }
    return sampler_->counters();
  }
  DriftSampler::Counters CountersAtTheEnd() {
    StopWorker();
    return sampler_->counters();
  }

  Values kl_;
  std::unique_ptr<DriftSampler> sampler_;
};

TEST_F(DriftTest, ABlendThatRecomputesAllHasNone) {
  Sample(1);
  const Answer answer = Generate(Blended("query_v", 1, 12));
  ASSERT_TRUE(answer.status.ok());
  const DriftSampler::Counters counters = AwaitMeasured(1);
  EXPECT_LT(kl_.values()[0], 1e-3);
  EXPECT_EQ(counters.same, 12u);
  EXPECT_EQ(counters.other, 0u);
  EXPECT_EQ(counters.skipped, 0u);
}

TEST_F(DriftTest, FullReuseHasSome) {
  Sample(1);
  Generate(Blended("none", 0, 30));
  AwaitMeasured(1);
  const double none = kl_.values()[0];
  EXPECT_GT(none, 1e-3);
  // The same as what two answers say of the first token, without the sampler.
  BlendRequest request = TinyRequest({lead_, a_, b_, c_, suffix_}, "none");
  TinyWorker other(client_.get());
  const Prefilled blend = other.Run(request);
  request.exact = true;
  EXPECT_NEAR(none, KlOfLogits(other.Run(request).logits, blend.logits), 1e-4);
}

TEST_F(DriftTest, ExactRequestsAreNotSampledAndOthersTokensAreNotCompared) {
  Sample(1);
  GenerateRequest exact = Blended("none", 0, 3);
  exact.mutable_blend()->set_mode(worker::v1::EXACT);
  Generate(exact);
  Generate(Request({suffix_}, 3));
  GenerateRequest drawn = Blended("none", 0, 3);
  drawn.mutable_sampling()->set_temperature(1);
  Generate(drawn);
  AwaitMeasured(1);
  GenerateRequest biased = Blended("none", 0, 3);
  (*biased.mutable_sampling()->mutable_logit_bias())[7] = 1;
  Generate(biased);
  const DriftSampler::Counters counters = AwaitMeasured(2);
  EXPECT_EQ(kl_.values().size(), 2u);
  EXPECT_EQ(counters.same + counters.other, 0u);
}

TEST_F(DriftTest, AtMostSixteenTokensAreCompared) {
  Sample(1);
  Generate(Blended("none", 0, 40));
  const DriftSampler::Counters counters = AwaitMeasured(1);
  EXPECT_EQ(counters.same + counters.other, 16u);
  EXPECT_GT(counters.other, 0u) << "full reuse goes wrong here";
}

TEST_F(DriftTest, OneWaitsAndOthersAreSkipped) {
  Sample(1);
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([this] { EXPECT_TRUE(Generate(Blended("none", 0, 50)).status.ok()); });
  }
  for (std::thread& thread : threads) thread.join();
  AwaitMeasured(1);
  const DriftSampler::Counters counters = CountersAtTheEnd();
  // They run together, so that nothing is compared before the last one ends.
  EXPECT_GE(counters.skipped, 1u);
  EXPECT_LE(counters.measured + counters.dropped + counters.skipped, 6u);
}

TEST_F(DriftTest, TheWorkerMayEndInTheMiddle) {
  for (int i = 0; i < 5; ++i) {
    Sample(1);
    GenerateRequest request = Request({lead_, TinyTokens(i, 450), suffix_}, 20);
    request.mutable_blend()->set_mode(worker::v1::BLEND);
    const Answer answer = Generate(request);
    EXPECT_EQ(answer.ids.size(), 20u);
    const DriftSampler::Counters counters = CountersAtTheEnd();
    EXPECT_LE(counters.measured + counters.dropped, 1u);
  }
}

TEST_F(DriftTest, ACancelledStepDropsTheSample) {
  DriftSampler sampler(1, worker_->decoder.get(), &kl_);
  StopWorker();
  Generation generation;
  generation.prompt = TinyRequest({lead_, a_, suffix_});
  class Silent final : public GenerationListener {
    void OnPromptLogprobs(const std::vector<PromptLogprob>&) override {}
    void OnStarted(const Prefilled&, absl::Duration, absl::Duration) override {}
    void OnToken(uint32_t, const SampledToken&) override {}
    void OnAnswered(uint32_t, bool, int64_t) override {}
    void OnFinished(const absl::Status&) override {}
  };
  Prefilled prefilled;
  prefilled.logits.assign(96, 0.0f);
  prefilled.blended = true;
  auto run = [&](const absl::Status& status) {
    const auto listener = sampler.Sampled(std::make_unique<Silent>(), &generation);
    listener->OnStarted(prefilled, absl::ZeroDuration(), absl::ZeroDuration());
    listener->OnToken(0, {.id = 5});
    listener->OnFinished(status);
  };
  std::atomic<bool> cancelled = false;
  run(absl::CancelledError("nobody is there"));
  EXPECT_FALSE(sampler.Step(cancelled)) << "only answers are compared";
  run(absl::OkStatus());
  run(absl::OkStatus());
  EXPECT_EQ(sampler.counters().skipped, 1u);
  cancelled = true;
  EXPECT_TRUE(sampler.Step(cancelled));
  EXPECT_FALSE(sampler.Step(cancelled));
  EXPECT_EQ(sampler.counters().dropped, 1u);
  cancelled = false;
  run(absl::OkStatus());
  int steps = 0;
  while (sampler.Step(cancelled)) ++steps;
  EXPECT_EQ(steps, 2) << "71 rows, no more than 64 in a step";
  EXPECT_EQ(sampler.counters().measured, 1u);
  EXPECT_EQ(sampler.counters().same + sampler.counters().other, 1u);
  EXPECT_EQ(kl_.values().size(), 1u);
}

TEST_F(DriftTest, TheShareIsOfTheIdAlone) {
  int in_share = 0, in_both = 0;
  for (int i = 0; i < 10000; ++i) {
    const std::string id = absl::StrCat("request-", i);
    const bool in = DriftSampler::InShare(id, 0.1);
    EXPECT_EQ(in, DriftSampler::InShare(id, 0.1));
    in_share += in;
    in_both += in && DriftSampler::InShare(id, 0.2);
    EXPECT_FALSE(DriftSampler::InShare(id, 0));
    EXPECT_TRUE(DriftSampler::InShare(id, 1));
  }
  EXPECT_NEAR(in_share, 1000, 150);
  EXPECT_EQ(in_both, in_share);
}

TEST_F(DriftTest, WithoutAShareNothingIsSampled) {
  Sample(0);
  Generate(Blended("none", 0, 3));
  const DriftSampler::Counters counters = CountersAtTheEnd();
  EXPECT_EQ(kl_.values().size() + counters.measured + counters.skipped + counters.dropped, 0u);
}

}  // namespace
}  // namespace tessera
