#include "gpu_worker/serve/worker_metrics.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace tessera {
namespace {

const std::vector<double>& ErrorBuckets() {
  static const std::vector<double> buckets = {0.125, 0.25, 0.4, 0.5, 0.67, 0.8, 0.9, 1,
                                              1.1,   1.25, 1.5, 2,   2.5,  4,   8};
  return buckets;
}

std::string Prefixed(const char* name) { return absl::StrCat("tessera_worker_", name); }

}  // namespace

class WorkerMetrics::Listener final : public GenerationListener {
 public:
  Listener(WorkerMetrics* metrics, std::unique_ptr<GenerationListener> listener,
           const Generation* generation)
      : metrics_(*metrics), listener_(std::move(listener)), generation_(*generation) {}

  void OnPromptLogprobs(const std::vector<PromptLogprob>& positions) override {
    listener_->OnPromptLogprobs(positions);
  }

  void OnStarted(const Prefilled& prefilled, absl::Duration queued,
                 absl::Duration prefill) override {
    metrics_.CountPrefill(prefilled, generation_.prompt.prefixes, queued, prefill);
    last_.resize(generation_.answers, absl::InfinitePast());
    listener_->OnStarted(prefilled, queued, prefill);
  }

  void OnToken(uint32_t index, const SampledToken& token) override {
    const absl::Time now = absl::Now();
    ++metrics_.generated_;
    if (!has_token_) metrics_.first_token_->Observe(now - generation_.submitted);
    has_token_ = true;
    absl::Time& last = last_[index];
    if (last != absl::InfinitePast()) metrics_.between_tokens_->Observe(now - last);
    last = now;
    listener_->OnToken(index, token);
  }

  void OnAnswered(uint32_t index, bool ended, int64_t tokens) override {
    ++(ended ? metrics_.stopped_ : metrics_.full_length_);
    listener_->OnAnswered(index, ended, tokens);
  }

  void OnFinished(const absl::Status& status) override {
    metrics_.CountEnd(status);
    listener_->OnFinished(status);
  }

 private:
  WorkerMetrics& metrics_;
  const std::unique_ptr<GenerationListener> listener_;
  const Generation& generation_;
  std::vector<absl::Time> last_;  // token of each answer
  bool has_token_ = false;
};

WorkerMetrics::WorkerMetrics(Metrics* metrics)
    : queue_(metrics->AddLatency(Prefixed("queue_seconds"),
                                 "From a request's arrival to its start.", {})),
      first_token_(metrics->AddLatency(Prefixed("time_to_first_token_seconds"),
                                       "From a request's arrival to its first token.", {})),
      between_tokens_(metrics->AddLatency(Prefixed("inter_token_seconds"),
                                          "Between two tokens of one answer.", {})) {
  auto prefill = [metrics](const char* kind) {
    return metrics->AddLatency(Prefixed("prefill_seconds"),
                               "From a request's start to its first token.", {{"kind", kind}});
  };
  blend_ = prefill("blend");
  exact_prefill_ = prefill("exact");
  off_ = prefill("off");
  for (size_t kind = 0; kind < kPrefillKinds; ++kind) {
    cost_error_[kind] = metrics->AddHistogram(
        Prefixed("cost_actual_over_predicted"),
        "Compute seconds of a prefill over those that the cost model says of it in hindsight.",
        {{"kind", PrefillKindName(static_cast<PrefillKind>(kind))}}, ErrorBuckets());
  }
  metrics->AddSource([this] { return Samples(); });
}

void WorkerMetrics::AddSource(Source source) {
  absl::MutexLock lock(&mutex_);
  sources_.push_back(std::move(source));
}

std::unique_ptr<GenerationListener> WorkerMetrics::Metered(
    std::unique_ptr<GenerationListener> listener, const Generation* generation) {
  return std::make_unique<Listener>(this, std::move(listener), generation);
}

void WorkerMetrics::CountRefused(const absl::Status& status) { CountEnd(status); }

void WorkerMetrics::CountEnd(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  ++ends_[status.code()];
}

void WorkerMetrics::CountTier(const std::string& tier) {
  absl::MutexLock lock(&mutex_);
  // A cache that makes names up must not fill our memory.
  const bool known = tiers_.size() < kMostTiers || tiers_.count(tier) > 0;
  ++tiers_[known ? tier : "other"];
}

void WorkerMetrics::CountPrefill(const Prefilled& prefilled, bool prefixes, absl::Duration queued,
                                 absl::Duration prefill) {
  queue_->Observe(queued);
  (prefilled.blended ? blend_ : prefixes ? exact_prefill_ : off_)->Observe(prefill);
  CountCost(prefilled);
  for (const SegmentOutcome& segment : prefilled.segments) {
    const int64_t reused = segment.cached_tokens - segment.recomputed_tokens;
    (segment.exact ? exact_ : blended_) += reused;
    recomputed_ += segment.recomputed_tokens;
    computed_ += segment.tokens - segment.cached_tokens;
    CountTier(segment.tier);
  }
}

void WorkerMetrics::CountCost(const Prefilled& prefilled) {
  if (prefilled.chosen) ++(prefilled.blended ? chose_blend_ : chose_full_);
  if (!prefilled.cost.has_value()) return;
  const CostDecision& predicted = prefilled.cost->predicted;
  cost_error_[static_cast<size_t>(predicted.kind)]->Observe(
      prefilled.cost->compute_seconds / (predicted.prefill_compute + predicted.blend_compute));
}

void WorkerMetrics::SetSelfTest(bool passed, double kl) {
  self_test_passed_ = passed;
  self_test_kl_ = kl;
}

void WorkerMetrics::AddRequests(MetricSamples* samples) const {
  for (const auto& [code, count] : ends_) {
    samples->Counter("requests", "Requests that ended, by how.", static_cast<double>(count),
                     {{"outcome", absl::AsciiStrToLower(absl::StatusCodeToString(code))}});
  }
  const char* const answers =
      "Answers that are complete: by an end token, or at their full length.";
  samples->Counter("answers", answers, static_cast<double>(stopped_), {{"reason", "stop"}});
  samples->Counter("answers", answers, static_cast<double>(full_length_), {{"reason", "length"}});
  samples->Counter("generated_tokens", "Tokens of all answers.", static_cast<double>(generated_));
}

void WorkerMetrics::AddPrompts(MetricSamples* samples) const {
  const std::pair<const char*, const std::atomic<uint64_t>*> sources[] = {
      {"exact", &exact_},
      {"blended", &blended_},
      {"recomputed", &recomputed_},
      {"computed", &computed_}};
  for (const auto& [source, tokens] : sources) {
    samples->Counter("prompt_tokens", "Prompt tokens, by how they got their KV.",
                     static_cast<double>(*tokens), {{"source", source}});
  }
  for (const auto& [tier, count] : tiers_) {
    samples->Counter("segments", "Segments, by the tier that their first piece came from.",
                     static_cast<double>(count), {{"tier", tier.empty() ? "none" : tier}});
  }
  const char* const decisions = "What the cost model chose.";
  samples->Counter("cost_decisions", decisions, static_cast<double>(chose_blend_),
                   {{"choice", "blend"}});
  samples->Counter("cost_decisions", decisions, static_cast<double>(chose_full_),
                   {{"choice", "full"}});
}

std::vector<MetricSample> WorkerMetrics::Samples() const {
  MetricSamples samples("tessera_worker_");
  absl::MutexLock lock(&mutex_);
  AddRequests(&samples);
  AddPrompts(&samples);
  samples.Gauge("self_test_passed", "1: blending is on; 0: it is off, or the self-test failed.",
                self_test_passed_ ? 1 : 0);
  samples.Gauge("self_test_kl", "Nats between a blend that recomputes all and a full prefill.",
                self_test_kl_);
  for (const Source& source : sources_) source(&samples);
  return samples.Take();
}

void AddClientSamples(const ClientCounters& counters, MetricSamples* samples) {
  const std::tuple<const char*, const char*, uint64_t> columns[] = {
      {"fetched_bytes", "Bytes of KV that came from the cache.", counters.fetched_bytes},
      {"stored_bytes", "Bytes of KV that went to the cache.", counters.stored_bytes},
      {"shm_bytes", "Of the fetched bytes, those read from shared memory.", counters.shm_bytes},
      {"failed_fetches", "Fetches that broke or could not begin.", counters.failed_fetches},
      {"failed_stores", "Stores that broke or could not begin.", counters.failed_stores},
      {"checksum_failures", "Slices that arrived damaged.", counters.checksum_failures},
      {"skipped_cache_calls", "Calls not tried, because the cache kept failing.",
       counters.skipped_calls},
      {"shm_fallbacks", "Calls that went over gRPC because shared memory failed.",
       counters.shm_fallbacks},
      {"lost_leases", "Fetches whose lease ended before they did.", counters.lost_leases}};
  for (const auto& [name, help, value] : columns) {
    samples->Counter(name, help, static_cast<double>(value));
  }
}

void AddEngineSamples(const EngineStats& stats, MetricSamples* samples) {
  samples->Gauge("requests_waiting", "Requests that wait to be prefilled.",
                 static_cast<double>(stats.waiting));
  samples->Gauge("requests_running", "Requests that are prefilled or decoded.",
                 static_cast<double>(stats.running));
  samples->Counter("preemptions", "Times that a request gave its KV memory up to another.",
                   static_cast<double>(stats.preemptions));
  const int64_t used = stats.kv_blocks - stats.free_blocks - stats.idle_blocks;
  auto tokens = [samples](const char* name, const char* help, int64_t blocks) {
    samples->Gauge(name, help, static_cast<double>(blocks * KvPool::kBlockSlots));
  };
  tokens("kv_tokens", "Positions of KV memory.", stats.kv_blocks);
  tokens("kv_used_tokens", "Of these, held by requests.", used);
  tokens("kv_idle_tokens", "Of these, prefixes that no request uses now.", stats.idle_blocks);
}

void AddPoolSamples(const ChunkPoolStats& stats, MetricSamples* samples) {
  samples->Gauge("chunk_pool_bytes", "Chunks that are resident in the worker.",
                 static_cast<double>(stats.resident_bytes));
  samples->Gauge("chunk_pool_chunks", "How many these are.",
                 static_cast<double>(stats.resident_chunks));
  const std::pair<const char*, uint64_t> outcomes[] = {
      {"resident", stats.hits}, {"joined", stats.joined}, {"missing", stats.misses}};
  for (const auto& [found, count] : outcomes) {
    samples->Counter("wanted_chunks", "Chunks that prompts wanted, by what the worker had of them.",
                     static_cast<double>(count), {{"found", found}});
  }
  samples->Counter("chunk_pool_evictions", "Chunks that are no longer resident.",
                   static_cast<double>(stats.evictions));
}

void AddCostSamples(const CostModel& costs, MetricSamples* samples) {
  samples->Gauge("cache_bytes_per_second", "How fast the cost model takes the cache to be.",
                 costs.fetch_bytes_per_second());
  for (size_t kind = 0; kind < kPrefillKinds; ++kind) {
    samples->Gauge("cost_factor", "What it has learned to multiply predictions with.",
                   costs.FactorOf(static_cast<PrefillKind>(kind)),
                   {{"kind", PrefillKindName(static_cast<PrefillKind>(kind))}});
  }
}

}  // namespace tessera
