#include "gpu_worker/serve/vllm_names.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/metric_samples.h"
#include "base/request_buckets.h"

namespace tessera {

VllmNames::VllmNames(Metrics* metrics, std::string model) : model_(std::move(model)) {
  auto add = [&](Name which, const char* name, const char* help,
                 const std::vector<double>& buckets) {
    histograms_[which] =
        metrics->AddHistogram(absl::StrCat("vllm:", name), help, {{"model_name", model_}}, buckets);
  };
  add(kFirstToken, "time_to_first_token_seconds", "From a request's arrival to its first token.",
      FirstTokenBuckets());
  add(kNextToken, "inter_token_latency_seconds", "Between two tokens of one answer.",
      NextTokenBuckets());
  add(kTotal, "e2e_request_latency_seconds", "From a request's arrival to its end.",
      RequestBuckets());
  add(kQueue, "request_queue_time_seconds", "From a request's arrival to its start.",
      RequestBuckets());
  add(kPrefill, "request_prefill_time_seconds", "From a request's start to its first token.",
      RequestBuckets());
  add(kDecode, "request_decode_time_seconds", "From a request's first token to its last.",
      RequestBuckets());
  add(kPromptTokens, "request_prompt_tokens", "Prompt tokens of a request.", TokenBuckets());
  add(kGeneratedTokens, "request_generation_tokens", "Generated tokens of a request.",
      TokenBuckets());
}

void VllmNames::Observe(Name name, absl::Duration took) {
  histograms_[name]->Observe(absl::ToDoubleSeconds(took));
}

void VllmNames::OnFirstToken(absl::Duration since_arrival) { Observe(kFirstToken, since_arrival); }

void VllmNames::OnNextToken(absl::Duration gap) { Observe(kNextToken, gap); }

void VllmNames::OnFinished(const FinishedRequest& request) {
  Observe(kTotal, request.total);
  Observe(kQueue, request.queued);
  Observe(kPrefill, request.prefill);
  Observe(kDecode, request.decode);
  histograms_[kPromptTokens]->Observe(static_cast<double>(request.prompt_tokens));
  histograms_[kGeneratedTokens]->Observe(static_cast<double>(request.generated_tokens));
}

std::vector<MetricSample> VllmNames::Samples(const VllmValues& values) const {
  MetricSamples samples("vllm:");
  const MetricLabels model = {{"model_name", model_}};
  samples.Gauge("num_requests_running", "Requests that are prefilled or decoded.", values.running,
                model);
  samples.Gauge("num_requests_waiting", "Requests that wait to be prefilled.", values.waiting,
                model);
  samples.Gauge("kv_cache_usage_perc", "Share of the KV memory that requests hold, 0 to 1.",
                values.kv_usage, model);
  samples.Counter("prompt_tokens", "Prompt tokens.", values.prompt_tokens, model);
  samples.Counter("generation_tokens", "Tokens of all answers.", values.generated_tokens, model);
  samples.Counter("prefix_cache_queries", "Prompt tokens that were looked for in this worker.",
                  values.looked_up, model);
  samples.Counter("prefix_cache_hits", "Of these, found.", values.found_here, model);
  if (values.has_cache) {
    samples.Counter("external_prefix_cache_queries",
                    "Prompt tokens that were looked for in the cache server.",
                    values.looked_up - values.found_here, model);
    samples.Counter("external_prefix_cache_hits", "Of these, found.", values.found_in_cache, model);
  }
  const std::pair<const char*, double> reasons[] = {
      {"stop", values.stopped}, {"length", values.full_length}, {"abort", values.aborted}};
  for (const auto& [reason, answers] : reasons) {
    samples.Counter("request_success", "Answers by why they ended.", answers,
                    {{"model_name", model_}, {"finished_reason", reason}});
  }
  return samples.Take();
}

}  // namespace tessera
