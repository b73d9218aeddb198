#include "gpu_worker/serve/worker_metrics.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/request_buckets.h"
#include "gpu_worker/serve/worker_samples.h"

namespace tessera {
namespace {

const std::vector<double>& ErrorBuckets() {
  static const std::vector<double> buckets = {0.125, 0.25, 0.4, 0.5, 0.67, 0.8, 0.9, 1,
                                              1.1,   1.25, 1.5, 2,   2.5,  4,   8};
  return buckets;
}

std::string Lower(absl::StatusCode code) {
  return absl::AsciiStrToLower(absl::StatusCodeToString(code));
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
    // Who wants every row of the prompt scored has nothing looked up.
    const bool prefixes = generation_.prompt.prefixes && !generation_.prompt_logprobs;
    metrics_.CountPrefill(prefilled, prefixes, queued, prefill);
    last_.resize(generation_.answers, absl::InfinitePast());
    prefilled_ = true;
    request_.queued = queued;
    request_.prefill = prefill;
    request_.prompt_tokens = prefilled.tokens;
    listener_->OnStarted(prefilled, queued, prefill);
  }

  void OnToken(uint32_t index, const SampledToken& token) override {
    const absl::Time now = absl::Now();
    ++metrics_.generated_;
    if (request_.generated_tokens++ == 0) OnFirstToken(now);
    request_.decode = now - first_token_;
    absl::Time& last = last_[index];
    if (last != absl::InfinitePast()) {
      metrics_.between_tokens_->Observe(now - last);
      if (metrics_.vllm_ != nullptr) metrics_.vllm_->OnNextToken(now - last);
    }
    last = now;
    listener_->OnToken(index, token);
  }

  void OnAnswered(uint32_t index, bool ended, int64_t tokens) override {
    ++answered_;
    ++(ended ? metrics_.stopped_ : metrics_.full_length_);
    listener_->OnAnswered(index, ended, tokens);
  }

  void OnFinished(const absl::Status& status) override {
    request_.total = absl::Now() - generation_.submitted;
    metrics_.aborted_ += generation_.answers - answered_;
    metrics_.CountRequest(status.code(), request_, prefilled_);
    metrics_.CountEnd(status);
    listener_->OnFinished(status);
  }

 private:
  void OnFirstToken(absl::Time now) {
    first_token_ = now;
    metrics_.first_token_->Observe(now - generation_.submitted);
    if (metrics_.vllm_ != nullptr) metrics_.vllm_->OnFirstToken(now - generation_.submitted);
  }

  WorkerMetrics& metrics_;
  const std::unique_ptr<GenerationListener> listener_;
  const Generation& generation_;
  bool prefilled_ = false;
  FinishedRequest request_;
  absl::Time first_token_;
  std::vector<absl::Time> last_;  // token of each answer
  uint32_t answered_ = 0;
};

WorkerMetrics::WorkerMetrics(Metrics* metrics, WorkerMetricsOptions options)
    : metrics_(*metrics),
      options_(std::move(options)),
      vllm_(options_.vllm_model.empty()
                ? nullptr
                : std::make_unique<VllmNames>(metrics, options_.vllm_model)),
      queue_(metrics->AddLatency(Prefixed("queue_seconds"),
                                 "From a request's arrival to its start.", {})),
      first_token_(metrics->AddLatency(Prefixed("time_to_first_token_seconds"),
                                       "From a request's arrival to its first token.", {})),
      between_tokens_(metrics->AddLatency(Prefixed("inter_token_seconds"),
                                          "Between two tokens of one answer.", {})),
      decode_(metrics->AddHistogram(Prefixed("decode_seconds"),
                                    "From a request's first token to its last.", {},
                                    RequestBuckets())),
      request_prompt_tokens_(metrics->AddHistogram(
          Prefixed("request_prompt_tokens"), "Prompt tokens of a request.", {}, TokenBuckets())),
      request_generated_tokens_(metrics->AddHistogram(Prefixed("request_generated_tokens"),
                                                      "Tokens of a request's answers.", {},
                                                      TokenBuckets())) {
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
  {
    // There from the start, so that a rate sees the first one too.
    absl::MutexLock lock(&mutex_);
    for (const absl::StatusCode code :
         {absl::StatusCode::kOk, absl::StatusCode::kCancelled, absl::StatusCode::kInvalidArgument,
          absl::StatusCode::kResourceExhausted, absl::StatusCode::kUnavailable}) {
      ends_[code] = 0;
      WholeRequests(code);
    }
    found_ = {{kWorkerTier, 0}, {"ram", 0}};
  }
  metrics->AddSource([this] { return Samples(); });
}

ValueHistogram* WorkerMetrics::WholeRequests(absl::StatusCode code) {
  ValueHistogram*& histogram = whole_[code];
  if (histogram == nullptr) {
    histogram = metrics_.AddHistogram(Prefixed("request_seconds"),
                                      "From a request's arrival in the queue to its end.",
                                      {{"outcome", Lower(code)}}, RequestBuckets());
  }
  return histogram;
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

void WorkerMetrics::CountRequest(absl::StatusCode code, const FinishedRequest& request,
                                 bool prefilled) {
  {
    absl::MutexLock lock(&mutex_);
    WholeRequests(code)->Observe(absl::ToDoubleSeconds(request.total));
  }
  if (!prefilled) return;
  decode_->Observe(absl::ToDoubleSeconds(request.decode));
  request_prompt_tokens_->Observe(static_cast<double>(request.prompt_tokens));
  request_generated_tokens_->Observe(static_cast<double>(request.generated_tokens));
  if (vllm_ != nullptr) vllm_->OnFinished(request);
}

// A cache that makes names up must not fill our memory.
void WorkerMetrics::AddToTier(const std::string& tier, uint64_t count, ByTier* tiers) {
  const bool known = tiers->size() < kMostTiers || tiers->count(tier) > 0;
  (*tiers)[known ? tier : "other"] += count;
}

void WorkerMetrics::CountTiers(const Prefilled& prefilled) {
  absl::MutexLock lock(&mutex_);
  for (const SegmentOutcome& segment : prefilled.segments) {
    AddToTier(segment.tier(), 1, &tiers_);
    for (const TierTokens& found : segment.found) AddToTier(found.tier, found.tokens, &found_);
  }
}

void WorkerMetrics::CountPrefill(const Prefilled& prefilled, bool prefixes, absl::Duration queued,
                                 absl::Duration prefill) {
  // Whoever leaves it open whether to blend has the prefix looked up otherwise.
  const bool exact = prefixes || prefilled.chosen;
  queue_->Observe(queued);
  (prefilled.blended ? blend_ : exact ? exact_prefill_ : off_)->Observe(prefill);
  if (prefilled.blended || exact) looked_up_ += prefilled.tokens;
  CountCost(prefilled);
  CountTiers(prefilled);
  for (const SegmentOutcome& segment : prefilled.segments) {
    const int64_t reused = segment.cached_tokens - segment.recomputed_tokens;
    (segment.exact ? exact_ : blended_) += reused;
    recomputed_ += segment.recomputed_tokens;
    computed_ += segment.tokens - segment.cached_tokens;
  }
}

void WorkerMetrics::CountCost(const Prefilled& prefilled) {
  if (prefilled.chosen) ++(prefilled.blended ? chose_blend_ : chose_full_);
  pulled_ += prefilled.pulls.pulled;
  pull_declined_ += prefilled.pulls.recomputed;
  if (!prefilled.cost.has_value()) return;
  const CostDecision& decision = prefilled.cost->predicted;
  const auto kind = static_cast<size_t>(decision.kind);
  const double predicted = decision.prefill_compute + decision.blend_compute;
  cost_error_[kind]->Observe(prefilled.cost->compute_seconds / predicted);
  predicted_[kind].fetch_add(predicted);
  actual_[kind].fetch_add(prefilled.cost->compute_seconds);
}

void WorkerMetrics::SetSelfTest(bool passed, double kl) {
  self_test_passed_ = passed;
  self_test_kl_ = kl;
}

void WorkerMetrics::AddRequests(MetricSamples* samples) const {
  for (const auto& [code, count] : ends_) {
    samples->Counter("requests", "Requests that ended, by how.", static_cast<double>(count),
                     {{"outcome", Lower(code)}});
  }
  const char* const answers = "Answers: ended by an end token, at their full length, or cut off.";
  samples->Counter("answers", answers, static_cast<double>(stopped_), {{"reason", "stop"}});
  samples->Counter("answers", answers, static_cast<double>(full_length_), {{"reason", "length"}});
  samples->Counter("answers", answers, static_cast<double>(aborted_), {{"reason", "abort"}});
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
}

void WorkerMetrics::AddLookups(MetricSamples* samples) const {
  const auto bytes = static_cast<double>(options_.kv_bytes_per_token);
  const auto looked_up = static_cast<double>(looked_up_);
  samples->Counter("lookup_tokens", "Prompt tokens that were looked for in caches.", looked_up);
  samples->Counter("lookup_bytes", "Bytes of their KV.", looked_up * bytes);
  for (const auto& [tier, tokens] : found_) {
    samples->Counter("hit_tokens", "Of the tokens that were looked for, those found, by tier.",
                     static_cast<double>(tokens), {{"tier", tier}});
  }
  for (const auto& [tier, tokens] : found_) {
    samples->Counter("hit_bytes", "Bytes of their KV.", static_cast<double>(tokens) * bytes,
                     {{"tier", tier}});
  }
}

void WorkerMetrics::AddDecisions(MetricSamples* samples) const {
  const char* const decisions = "What the cost model chose.";
  samples->Counter("cost_decisions", decisions, static_cast<double>(chose_blend_),
                   {{"choice", "blend"}});
  samples->Counter("cost_decisions", decisions, static_cast<double>(chose_full_),
                   {{"choice", "full"}});
  const char* const pulls = "Tokens that the cache had, by what the cost model decided of them.";
  samples->Counter("pull_decision_tokens", pulls, static_cast<double>(pulled_),
                   {{"choice", "pull"}});
  samples->Counter("pull_decision_tokens", pulls, static_cast<double>(pull_declined_),
                   {{"choice", "recompute"}});
  for (size_t i = 0; i < kPrefillKinds; ++i) {
    const std::string kind = PrefillKindName(static_cast<PrefillKind>(i));
    const char* const seconds = "Compute seconds of prefills, as predicted in hindsight and taken.";
    samples->Counter("cost_seconds", seconds, predicted_[i], {{"kind", kind}, {"of", "predicted"}});
    samples->Counter("cost_seconds", seconds, actual_[i], {{"kind", kind}, {"of", "actual"}});
  }
}

std::vector<MetricSample> WorkerMetrics::Samples() const {
  MetricSamples samples("tessera_worker_");
  absl::MutexLock lock(&mutex_);
  AddRequests(&samples);
  AddPrompts(&samples);
  AddLookups(&samples);
  AddDecisions(&samples);
  samples.Gauge("self_test_passed", "1: blending is on; 0: it is off, or the self-test failed.",
                self_test_passed_ ? 1 : 0);
  samples.Gauge("self_test_kl", "Nats between a blend that recomputes all and a full prefill.",
                self_test_kl_);
  for (const Source& source : sources_) source(&samples);
  return samples.Take();
}

std::vector<MetricSample> WorkerMetrics::VllmSamples(const EngineStats& stats) const {
  if (vllm_ == nullptr) return {};
  VllmValues values = {
      .running = static_cast<double>(stats.running),
      .waiting = static_cast<double>(stats.waiting),
      .kv_usage = KvUsage(stats),
      .prompt_tokens = static_cast<double>(exact_ + blended_ + recomputed_ + computed_),
      .generated_tokens = static_cast<double>(generated_),
      .looked_up = static_cast<double>(looked_up_),
      .has_cache = options_.has_cache,
      .stopped = static_cast<double>(stopped_),
      .full_length = static_cast<double>(full_length_),
      .aborted = static_cast<double>(aborted_)};
  absl::MutexLock lock(&mutex_);
  for (const auto& [tier, tokens] : found_) {
    (tier == kWorkerTier ? values.found_here : values.found_in_cache) +=
        static_cast<double>(tokens);
  }
  return vllm_->Samples(values);
}

}  // namespace tessera
