// What the worker counts is what it did: over a tiny model and a real cache server.
#include "gpu_worker/serve/worker_metrics.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "gpu_worker/serve/worker_samples.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/serve/worker_fixture.h"

namespace tessera {
namespace {

class WorkerMetricsTest : public WorkerFixture {
 protected:
  void SetUp() override {
    metrics_ = &counts_;
    WorkerFixture::SetUp();
  }
  void TearDown() override {
    WorkerFixture::TearDown();
    registry_->RemoveSources();
  }

  // The value of "name{labels}"; -1 when it is not there.
  double Series(const std::string& series) const {
    for (const absl::string_view line : absl::StrSplit(registry_->Text(), '\n')) {
      const std::string start = absl::StrCat(series, " ");
      if (absl::StartsWith(line, start)) return std::stod(std::string(line.substr(start.size())));
    }
    return -1;
  }
  double Value(const std::string& series) const {
    return Series(absl::StrCat("tessera_worker_", series));
  }
  double Vllms(const std::string& name) const {
    return Series(absl::StrCat("vllm:", name, "{model_name=\"tiny\"}"));
  }
  double Bytes(const std::string& name) const {
    return Value(name + "{transport=\"grpc\"}") + Value(name + "{transport=\"shm\"}");
  }

  GenerateRequest With(worker::v1::BlendMode mode, uint32_t max_tokens = 5) const {
    GenerateRequest request = Request({lead_, a_, b_, suffix_}, max_tokens);
    request.mutable_blend()->set_mode(mode);
    return request;
  }

  const std::unique_ptr<Metrics> registry_ = Metrics::Make();
  WorkerMetrics counts_{registry_.get(),
                        {.kv_bytes_per_token = 10, .has_cache = true, .vllm_model = "tiny"}};
};

// For prefills that did not happen.
class Silent final : public GenerationListener {
 public:
  void OnPromptLogprobs(const std::vector<PromptLogprob>&) override {}
  void OnStarted(const Prefilled&, absl::Duration, absl::Duration) override {}
  void OnToken(uint32_t, const SampledToken&) override {}
  void OnAnswered(uint32_t, bool, int64_t) override {}
  void OnFinished(const absl::Status&) override {}
};

TEST_F(WorkerMetricsTest, CountsWhatAPromptIsMadeOf) {
  const auto lead = static_cast<double>(lead_.size()), suffix = static_cast<double>(suffix_.size());
  const auto chunks = static_cast<double>(a_.size() + b_.size());
  Generate(With(worker::v1::BLEND));
  WaitForStores();
  EXPECT_EQ(Value("prompt_tokens_total{source=\"computed\"}"), lead + chunks + suffix);
  EXPECT_EQ(Value("segments_total{tier=\"none\"}"), 4);
  const Answer warm = Generate(With(worker::v1::BLEND));
  const double recomputed = warm.started.usage().recomputed_tokens();
  EXPECT_GT(recomputed, 0);
  EXPECT_EQ(Value("prompt_tokens_total{source=\"computed\"}"), lead + chunks + 2 * suffix);
  EXPECT_EQ(Value("prompt_tokens_total{source=\"exact\"}"), lead);
  EXPECT_EQ(Value("prompt_tokens_total{source=\"recomputed\"}"), recomputed);
  EXPECT_EQ(Value("prompt_tokens_total{source=\"blended\"}"), chunks - recomputed);
  EXPECT_EQ(Value("segments_total{tier=\"ram\"}"), 3);
  EXPECT_EQ(Value("segments_total{tier=\"none\"}"), 5);
  EXPECT_EQ(Value("lookup_tokens_total"), 2 * (lead + chunks + suffix));
  EXPECT_EQ(Value("lookup_bytes_total"), 10 * Value("lookup_tokens_total"));
  EXPECT_EQ(Value("hit_tokens_total{tier=\"ram\"}"), lead + chunks);
  EXPECT_EQ(Value("hit_bytes_total{tier=\"ram\"}"), 10 * (lead + chunks));
  EXPECT_EQ(Value("hit_tokens_total{tier=\"worker\"}"), 0);
  // Whose prompt is not looked up counts as no miss.
  Generate(With(worker::v1::OFF));
  EXPECT_EQ(Value("lookup_tokens_total"), 2 * (lead + chunks + suffix));
}

TEST_F(WorkerMetricsTest, VllmsNamesSayTheSame) {
  EngineStats stats;
  stats.running = 3;
  stats.waiting = 2;
  stats.kv_blocks = 8;
  stats.free_blocks = 5;
  stats.idle_blocks = 1;
  registry_->AddSource([&] { return counts_.VllmSamples(stats); });
  Generate(With(worker::v1::BLEND, 4));
  WaitForStores();
  GenerateRequest stopped = With(worker::v1::BLEND, 9);
  for (uint32_t id = 0; id < 96; ++id) stopped.add_stop_token_ids(id);
  const Answer warm = Generate(stopped);
  EXPECT_EQ(Vllms("num_requests_running"), 3);
  EXPECT_EQ(Vllms("num_requests_waiting"), 2);
  EXPECT_EQ(Vllms("kv_cache_usage_perc"), 0.25);
  const worker::v1::PromptUsage& usage = warm.started.usage();
  const double found = usage.exact_tokens() + usage.blended_tokens() + usage.recomputed_tokens();
  const double prompt = found + usage.computed_tokens();
  EXPECT_EQ(Vllms("prompt_tokens_total"), 2 * prompt);
  EXPECT_EQ(Vllms("generation_tokens_total"), 4 + 1);
  EXPECT_EQ(Vllms("prefix_cache_queries_total"), 2 * prompt);
  EXPECT_EQ(Vllms("prefix_cache_hits_total"), 0);
  EXPECT_EQ(Vllms("external_prefix_cache_queries_total"), 2 * prompt);
  EXPECT_EQ(Vllms("external_prefix_cache_hits_total"), found);
  auto ended = [this](const std::string& reason) {
    return Series("vllm:request_success_total{model_name=\"tiny\",finished_reason=\"" + reason +
                  "\"}");
  };
  EXPECT_EQ(ended("length"), 1);
  EXPECT_EQ(ended("stop"), 1);
  EXPECT_EQ(ended("abort"), 0);
  for (const std::string name :
       {"time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
        "request_prefill_time_seconds", "request_decode_time_seconds", "request_prompt_tokens",
        "request_generation_tokens"}) {
    EXPECT_EQ(Vllms(name + "_count"), 2) << name;
  }
  EXPECT_EQ(Vllms("inter_token_latency_seconds_count"), 3);
  EXPECT_EQ(Vllms("request_prompt_tokens_sum"), 2 * prompt);
  EXPECT_EQ(Vllms("request_generation_tokens_sum"), 5);
  EXPECT_GE(Vllms("e2e_request_latency_seconds_sum"), Vllms("request_decode_time_seconds_sum"));
}

TEST(VllmNamesTest, AreOnlyThereWhenWanted) {
  const std::unique_ptr<Metrics> registry = Metrics::Make();
  const WorkerMetrics counts(registry.get());
  EXPECT_TRUE(counts.VllmSamples({}).empty());
  EXPECT_FALSE(absl::StrContains(registry->Text(), "vllm:"));
  registry->RemoveSources();
}

TEST(VllmNamesTest, NothingIsSaidOfACacheServerThatIsNotThere) {
  const std::unique_ptr<Metrics> registry = Metrics::Make();
  const WorkerMetrics counts(registry.get(), {.vllm_model = "tiny"});
  registry->AddSource([&] { return counts.VllmSamples({}); });
  EXPECT_FALSE(absl::StrContains(registry->Text(), "external_prefix_cache"));
  EXPECT_TRUE(absl::StrContains(registry->Text(), "vllm:prefix_cache_hits_total"));
  registry->RemoveSources();
}

TEST_F(WorkerMetricsTest, ACancelledRequestCutsItsAnswersOff) {
  Generation generation;
  generation.answers = 3;
  generation.submitted = absl::Now() - absl::Seconds(2);
  const auto listener = counts_.Metered(std::make_unique<Silent>(), &generation);
  Prefilled prefilled;
  prefilled.tokens = 7;
  listener->OnStarted(prefilled, absl::ZeroDuration(), absl::ZeroDuration());
  listener->OnToken(0, {});
  listener->OnAnswered(0, /*ended=*/true, 1);
  listener->OnToken(1, {});
  listener->OnFinished(absl::CancelledError("left"));
  EXPECT_EQ(Value("answers_total{reason=\"stop\"}"), 1);
  EXPECT_EQ(Value("answers_total{reason=\"abort\"}"), 2);
  EXPECT_EQ(Value("requests_total{outcome=\"cancelled\"}"), 1);
  EXPECT_EQ(Value("request_seconds_count{outcome=\"cancelled\"}"), 1);
  EXPECT_GE(Value("request_seconds_sum{outcome=\"cancelled\"}"), 2);
  EXPECT_EQ(Value("request_seconds_count{outcome=\"ok\"}"), 0);
  EXPECT_EQ(Value("request_prompt_tokens_sum"), 7);
  EXPECT_EQ(Value("request_generated_tokens_sum"), 2);
}

TEST_F(WorkerMetricsTest, CountsRequestsAndTimes) {
  GenerateRequest two = With(worker::v1::EXACT, 7);
  two.set_n(2);
  EXPECT_TRUE(Generate(two).status.ok());
  EXPECT_TRUE(Generate(With(worker::v1::OFF, 1)).status.ok());
  EXPECT_TRUE(Generate(With(worker::v1::BLEND, 3)).status.ok());
  GenerateRequest stopped = With(worker::v1::OFF, 5);
  for (uint32_t id = 0; id < 96; ++id) stopped.add_stop_token_ids(id);
  EXPECT_TRUE(Generate(stopped).status.ok());
  GenerateRequest bad = With(worker::v1::OFF);
  bad.mutable_segments(0)->add_token_ids(5000);
  EXPECT_FALSE(Generate(bad).status.ok());

  EXPECT_EQ(Value("requests_total{outcome=\"ok\"}"), 4);
  EXPECT_EQ(Value("requests_total{outcome=\"invalid_argument\"}"), 1);
  EXPECT_EQ(Value("answers_total{reason=\"length\"}"), 4);
  EXPECT_EQ(Value("answers_total{reason=\"stop\"}"), 1);
  EXPECT_EQ(Value("generated_tokens_total"), 7 + 7 + 1 + 3 + 1);
  EXPECT_EQ(Value("queue_seconds_count"), 4);
  EXPECT_EQ(Value("prefill_seconds_count{kind=\"exact\"}"), 1);
  EXPECT_EQ(Value("prefill_seconds_count{kind=\"off\"}"), 2);
  EXPECT_EQ(Value("prefill_seconds_count{kind=\"blend\"}"), 1);
  EXPECT_EQ(Value("time_to_first_token_seconds_count"), 4);
  EXPECT_GE(Value("time_to_first_token_seconds_sum"), Value("queue_seconds_sum"));
  // Between the tokens of an answer, not from one answer to the next.
  EXPECT_EQ(Value("inter_token_seconds_count"), 6 + 6 + 0 + 2 + 0);
}

TEST_F(WorkerMetricsTest, DecisionsAndTheirErrors) {
  Generation generation;
  const auto listener = counts_.Metered(std::make_unique<Silent>(), &generation);
  auto prefill = [&](bool chosen, const CostDecision& predicted, double seconds) {
    Prefilled prefilled;
    prefilled.chosen = chosen;
    prefilled.blended = predicted.blend;
    prefilled.cost = {predicted, seconds};
    listener->OnStarted(prefilled, absl::ZeroDuration(), absl::ZeroDuration());
  };
  prefill(true, {.blend = true, .kind = PrefillKind::kQuery, .blend_compute = 2}, 3);
  prefill(true, {.prefill_compute = 2}, 2);
  prefill(false, {.prefill_compute = 2}, 1);
  Prefilled slow_link;
  slow_link.pulls = {.pulled = 5, .recomputed = 6};
  listener->OnStarted(slow_link, absl::ZeroDuration(), absl::ZeroDuration());
  EXPECT_EQ(Value("pull_decision_tokens_total{choice=\"pull\"}"), 5);
  EXPECT_EQ(Value("pull_decision_tokens_total{choice=\"recompute\"}"), 6);
  EXPECT_EQ(Value("cost_seconds_total{kind=\"query\",of=\"predicted\"}"), 2);
  EXPECT_EQ(Value("cost_seconds_total{kind=\"query\",of=\"actual\"}"), 3);
  EXPECT_EQ(Value("cost_seconds_total{kind=\"full\",of=\"actual\"}"), 3);
  // A full prefill that was chosen reads its prefix, as one in mode exact does.
  EXPECT_EQ(Value("prefill_seconds_count{kind=\"exact\"}"), 1);
  EXPECT_EQ(Value("cost_decisions_total{choice=\"blend\"}"), 1);
  EXPECT_EQ(Value("cost_decisions_total{choice=\"full\"}"), 1);
  EXPECT_EQ(Value("cost_actual_over_predicted_sum{kind=\"query\"}"), 1.5);
  EXPECT_EQ(Value("cost_actual_over_predicted_sum{kind=\"full\"}"), 1.5);
  EXPECT_EQ(Value("cost_actual_over_predicted_count{kind=\"full\"}"), 2);
}

TEST_F(WorkerMetricsTest, TheEngineIsShown) {
  EngineStats stats = {.waiting = 2,
                       .most_waiting = 9,
                       .running = 3,
                       .preemptions = 5,
                       .kv_blocks = 100,
                       .free_blocks = 60,
                       .idle_blocks = 10};
  counts_.AddSource([&](MetricSamples* samples) { AddEngineSamples(stats, samples); });
  EXPECT_EQ(Value("requests_waiting"), 2);
  EXPECT_EQ(Value("requests_waiting_limit"), 9);
  EXPECT_EQ(Value("kv_usage_ratio"), 0.3);
  EXPECT_EQ(Value("requests_running"), 3);
  EXPECT_EQ(Value("preemptions_total"), 5);
  EXPECT_EQ(Value("kv_tokens"), 100 * KvPool::kBlockSlots);
  EXPECT_EQ(Value("kv_used_tokens"), 30 * KvPool::kBlockSlots);
  EXPECT_EQ(Value("kv_idle_tokens"), 10 * KvPool::kBlockSlots);
}

TEST_F(WorkerMetricsTest, TheSelfTestAndOtherPartsAreShown) {
  EXPECT_EQ(Value("self_test_passed"), 0);
  counts_.SetSelfTest(true, 0.5);
  EXPECT_EQ(Value("self_test_passed"), 1);
  EXPECT_EQ(Value("self_test_kl"), 0.5);
  const CostModel costs(CostCoefficients{.row = 1});
  counts_.AddSource([&](MetricSamples* samples) {
    AddClientSamples(client_->counters(), samples);
    AddCostSamples(costs, samples);
  });
  Generate(With(worker::v1::BLEND));
  WaitForStores();
  EXPECT_EQ(Bytes("stored_bytes_total"), client_->counters().stored_bytes);
  EXPECT_GT(Bytes("stored_bytes_total"), 0);
  Generate(With(worker::v1::BLEND));
  EXPECT_EQ(Bytes("fetched_bytes_total"), Bytes("stored_bytes_total"));
  EXPECT_EQ(Value("checksum_failures_total"), 0);
  EXPECT_EQ(Value("cost_factor{kind=\"hkvd\"}"), 1);
  EXPECT_EQ(Value("cache_bytes_per_second"), 1e9);
}

TEST_F(WorkerMetricsTest, ACacheCannotMakeUpEndlessTiers) {
  Generation generation;
  const auto listener = counts_.Metered(std::make_unique<Silent>(), &generation);
  Prefilled prefilled;
  for (int i = 0; i < 100; ++i) {
    prefilled.segments = {
        {.tokens = 1, .cached_tokens = 1, .found = {{absl::StrCat("tier", i), 1}}}};
    listener->OnStarted(prefilled, absl::ZeroDuration(), absl::ZeroDuration());
  }
  EXPECT_EQ(Value("segments_total{tier=\"tier7\"}"), 1);
  EXPECT_EQ(Value("segments_total{tier=\"tier8\"}"), -1);
  EXPECT_EQ(Value("segments_total{tier=\"other\"}"), 92);
}

}  // namespace
}  // namespace tessera
