#include "gateway/openai/metrics.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/request_buckets.h"

namespace tessera::openai {

struct ApiMetrics::Series {
  std::string model;
  std::atomic<uint64_t> prompt_tokens{0};
  std::atomic<uint64_t> generation_tokens{0};
  std::atomic<uint64_t> exact{0};
  std::atomic<uint64_t> blended{0};
  std::atomic<uint64_t> recomputed{0};
  std::atomic<uint64_t> computed{0};
  std::atomic<uint64_t> stop{0};
  std::atomic<uint64_t> length{0};
  std::atomic<uint64_t> abort{0};
  // Under our name, and vLLM's where it is wanted.
  std::array<std::vector<ValueHistogram*>, kHistograms> histograms;

  void Observe(Histogram which, double value) {
    for (ValueHistogram* const histogram : histograms[which]) histogram->Observe(value);
  }
  void Observe(Histogram which, absl::Duration took) {
    Observe(which, absl::ToDoubleSeconds(std::max(took, absl::ZeroDuration())));
  }
};

namespace {

struct HistogramName {
  const char* name;
  const char* help;
  const std::vector<double>& buckets;
};

const std::vector<HistogramName>& HistogramNames() {
  static const std::vector<HistogramName> names = {
      {"time_to_first_token_seconds", "From a request's arrival to its first token.",
       FirstTokenBuckets()},
      {"inter_token_latency_seconds", "Between two tokens of one answer.", NextTokenBuckets()},
      {"e2e_request_latency_seconds", "From a request's arrival to its end.", RequestBuckets()},
      {"request_queue_time_seconds", "In the worker's queue, of a request's slowest prompt.",
       RequestBuckets()},
      {"request_prefill_time_seconds", "From the worker's start to the first token.",
       RequestBuckets()},
      {"request_decode_time_seconds", "From a request's first token to its end.", RequestBuckets()},
      {"request_prompt_tokens", "Prompt tokens of a request.", TokenBuckets()},
      {"request_generation_tokens", "Generated tokens of a request.", TokenBuckets()},
  };
  return names;
}

constexpr char kOurs[] = "tessera_";
constexpr char kVllms[] = "vllm:";

MetricSample Sample(std::string name, const char* help, bool counter, MetricLabels labels,
                    double value) {
  return {std::move(name), help, counter, std::move(labels), value};
}

uint64_t PromptTokens(const worker::v1::PromptUsage& usage) {
  return uint64_t{usage.exact_tokens()} + usage.blended_tokens() + usage.recomputed_tokens() +
         usage.computed_tokens();
}

}  // namespace

ApiMetrics::ApiMetrics(Metrics* metrics, ApiMetricsOptions options)
    : metrics_(metrics), options_(std::move(options)), requests_(metrics) {
  metrics_->AddSource([this] { return Samples(); });
}

ApiMetrics::~ApiMetrics() = default;

ApiMetrics::Series* ApiMetrics::SeriesOf(const std::string& model) {
  for (const auto& series : series_) {
    if (series->model == model) return series.get();
  }
  if (series_.size() == kMaxModels) return series_.back().get();
  auto series = std::make_unique<Series>();
  series->model = model;
  for (size_t i = 0; i < kHistograms; ++i) {
    const HistogramName& histogram = HistogramNames()[i];
    for (const char* const prefix : {kOurs, kVllms}) {
      if (prefix == kVllms && !options_.vllm_names) continue;
      series->histograms[i].push_back(
          metrics_->AddHistogram(absl::StrCat(prefix, histogram.name), histogram.help,
                                 {{"model_name", model}}, histogram.buckets));
    }
  }
  series_.push_back(std::move(series));
  return series_.back().get();
}

void ApiMetrics::OnAccepted() {
  ++open_;
  const std::optional<worker::v1::GetModelResponse> model = options_.workers->Model();
  if (!model && current_ != nullptr) return;
  absl::MutexLock lock(&mutex_);
  current_ = SeriesOf(model ? model->name() : "");
}

void ApiMetrics::OnNextToken(Endpoint endpoint, absl::Duration gap) {
  requests_.OnNextToken(endpoint, gap);
  Series* const series = current_;
  if (series != nullptr) series->Observe(kInterToken, gap);
}

void ApiMetrics::OnFinished(const CompletionReport& report) {
  --open_;
  requests_.OnFinished(report);
  Series* const series = current_;
  if (series == nullptr) return;
  for (const std::string_view reason : report.finish_reasons) {
    ++(reason == "stop" ? series->stop : reason == "length" ? series->length : series->abort);
  }
  const uint64_t prompt_tokens = PromptTokens(report.usage);
  // Refused, or never prefilled: it would only blur what the others took.
  if (prompt_tokens == 0) return;
  series->prompt_tokens += prompt_tokens;
  series->generation_tokens += report.completion_tokens;
  series->exact += report.usage.exact_tokens();
  series->blended += report.usage.blended_tokens();
  series->recomputed += report.usage.recomputed_tokens();
  series->computed += report.usage.computed_tokens();
  series->Observe(kTotal, report.total);
  series->Observe(kQueue, report.queued);
  series->Observe(kPrefill, report.prefill);
  series->Observe(kPromptTokens, static_cast<double>(prompt_tokens));
  series->Observe(kGenerationTokens, static_cast<double>(report.completion_tokens));
  if (report.ttft == absl::InfiniteDuration()) return;
  series->Observe(kTtft, report.ttft);
  series->Observe(kDecode, report.total - report.ttft);
}

void ApiMetrics::CountResponse(std::string_view route, int code) {
  absl::MutexLock lock(&mutex_);
  ++responses_[{route, code}];
}

void ApiMetrics::CountRateLimited(const std::string& key_name) {
  absl::MutexLock lock(&mutex_);
  ++rate_limited_[key_name];
}

std::vector<MetricSample> ApiMetrics::Samples() const {
  std::vector<MetricSample> samples;
  AddModelSamples(&samples);
  AddWorkerSamples(&samples);
  AddHttpSamples(&samples);
  return samples;
}

void ApiMetrics::AddModelSamples(std::vector<MetricSample>* samples) const {
  absl::MutexLock lock(&mutex_);
  const auto add = [&](const char* name, const char* help, auto value) {
    for (const char* const prefix : {kOurs, kVllms}) {
      if (prefix == kVllms && !options_.vllm_names) continue;
      for (const auto& series : series_) {
        samples->push_back(Sample(absl::StrCat(prefix, name), help, true,
                                  {{"model_name", series->model}},
                                  static_cast<double>(value(*series))));
      }
    }
  };
  const Series* const current = current_;
  const MetricLabels served = {{"model_name", current == nullptr ? "" : current->model}};
  const uint64_t waiting = options_.waiting ? options_.waiting() : 0;
  const uint64_t open = open_;
  for (const char* const prefix : {kOurs, kVllms}) {
    if (prefix == kVllms && !options_.vllm_names) continue;
    samples->push_back(Sample(absl::StrCat(prefix, "num_requests_running"),
                              "Requests that were sent to a worker, or are being prepared.", false,
                              served, static_cast<double>(open - std::min(open, waiting))));
    samples->push_back(Sample(absl::StrCat(prefix, "num_requests_waiting"),
                              "Requests that wait to be prepared.", false, served,
                              static_cast<double>(waiting)));
  }
  add("prompt_tokens_total", "Prompt tokens that were prefilled or found.",
      [](const Series& s) { return s.prompt_tokens.load(); });
  add("generation_tokens_total", "Tokens that were generated.",
      [](const Series& s) { return s.generation_tokens.load(); });
  add("prefix_cache_queries_total", "Prompt tokens, whether or not a cache could have them.",
      [](const Series& s) { return s.prompt_tokens.load(); });
  add("prefix_cache_hits_total", "Of these, found in any cache, even if recomputed.",
      [](const Series& s) { return s.exact + s.blended + s.recomputed; });
  const std::pair<const char*, std::atomic<uint64_t> Series::*> sources[] = {
      {"exact", &Series::exact},
      {"blended", &Series::blended},
      {"recomputed", &Series::recomputed},
      {"computed", &Series::computed}};
  for (const auto& [source, count] : sources) {
    for (const auto& series : series_) {
      samples->push_back(Sample("tessera_prompt_kv_tokens_total",
                                "Prompt tokens by where their KV came from.", true,
                                {{"model_name", series->model}, {"source", source}},
                                static_cast<double>((*series.*count).load())));
    }
  }
  const std::pair<const char*, std::atomic<uint64_t> Series::*> reasons[] = {
      {"stop", &Series::stop}, {"length", &Series::length}, {"abort", &Series::abort}};
  for (const char* const prefix : {kOurs, kVllms}) {
    if (prefix == kVllms && !options_.vllm_names) continue;
    for (const auto& [reason, count] : reasons) {
      for (const auto& series : series_) {
        samples->push_back(Sample(absl::StrCat(prefix, "request_success_total"),
                                  "Answers by why they ended.", true,
                                  {{"model_name", series->model}, {"finished_reason", reason}},
                                  static_cast<double>((*series.*count).load())));
      }
    }
  }
}

void ApiMetrics::AddWorkerSamples(std::vector<MetricSample>* samples) const {
  const std::vector<WorkerState> states = options_.workers->States();
  for (const WorkerState& state : states) {
    samples->push_back(Sample("tessera_worker_ready", "1: the worker says what it serves.", false,
                              {{"worker", state.address}}, state.ready ? 1 : 0));
  }
  for (const WorkerState& state : states) {
    samples->push_back(Sample("tessera_worker_in_flight", "Requests that run on the worker.", false,
                              {{"worker", state.address}}, static_cast<double>(state.in_flight)));
  }
  const RoutingTotals totals = options_.workers->Totals();
  const auto add = [&](const char* name, const char* help, MetricLabels labels, uint64_t value) {
    samples->push_back(Sample(name, help, true, std::move(labels), static_cast<double>(value)));
  };
  constexpr char kRouted[] = "Requests by why they went where they went first.";
  add("tessera_routed_total", kRouted, {{"by", "affinity"}}, totals.by_affinity);
  add("tessera_routed_total", kRouted, {{"by", "hash"}}, totals.by_hash);
  add("tessera_routed_total", kRouted, {{"by", "load"}}, totals.by_load);
  add("tessera_routing_retries_total", "Requests that were sent to another worker.", {},
      totals.retries);
  add("tessera_workers_lost_total", "Times that a worker stopped being ready.", {},
      totals.lost_workers);
}

void ApiMetrics::AddHttpSamples(std::vector<MetricSample>* samples) const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, count] : responses_) {
    samples->push_back(
        Sample("tessera_http_requests_total", "Answers by route and status.", true,
               {{"route", std::string(key.first)}, {"code", absl::StrCat(key.second)}},
               static_cast<double>(count)));
  }
  for (const auto& [name, count] : rate_limited_) {
    samples->push_back(Sample("tessera_rate_limited_total",
                              "Requests past a limit of their API key, by its name.", true,
                              {{"key", name}}, static_cast<double>(count)));
  }
}

}  // namespace tessera::openai
