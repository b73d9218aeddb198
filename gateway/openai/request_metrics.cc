#include "gateway/openai/request_metrics.h"

#include <algorithm>
#include <string>

#include "base/request_buckets.h"
#include "glog/logging.h"

namespace tessera::openai {
namespace {

size_t RouteIndex(Endpoint endpoint) { return endpoint == Endpoint::kChat ? 1 : 0; }
const char* RouteLabel(size_t route) { return route == 1 ? "chat" : "completions"; }

void Observe(ValueHistogram* histogram, absl::Duration took) {
  histogram->Observe(absl::ToDoubleSeconds(std::max(took, absl::ZeroDuration())));
}

}  // namespace

RequestOutcome OutcomeOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return RequestOutcome::kOk;
    case absl::StatusCode::kCancelled:
      return RequestOutcome::kCancelled;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return RequestOutcome::kInvalid;
    case absl::StatusCode::kResourceExhausted:
      return RequestOutcome::kRejected;
    case absl::StatusCode::kUnavailable:
      return RequestOutcome::kUnavailable;
    case absl::StatusCode::kDeadlineExceeded:
      return RequestOutcome::kTimeout;
    default:
      return RequestOutcome::kFailed;
  }
}

std::string_view OutcomeName(RequestOutcome outcome) {
  constexpr std::string_view kNames[kRequestOutcomes] = {
      "ok", "cancelled", "invalid", "rejected", "unavailable", "timeout", "failed"};
  return kNames[static_cast<size_t>(outcome)];
}

ReuseShare ShareOf(uint64_t reused, uint64_t total) {
  CHECK_LE(reused, total);
  if (reused == 0) return ReuseShare::kNone;
  if (reused * 2 < total) return ReuseShare::kLow;
  return reused * 10 < total * 9 ? ReuseShare::kMiddle : ReuseShare::kHigh;
}

std::string_view ReuseName(ReuseShare share) {
  constexpr std::string_view kNames[kReuseShares] = {"0", "0-50", "50-90", "90-100"};
  return kNames[static_cast<size_t>(share)];
}

RequestMetrics::RequestMetrics(Metrics* metrics) {
  for (size_t route = 0; route < kRoutes; ++route) {
    const std::string name = RouteLabel(route);
    for (size_t i = 0; i < kRequestOutcomes; ++i) {
      const MetricLabels labels = {
          {"route", name}, {"outcome", std::string(OutcomeName(static_cast<RequestOutcome>(i)))}};
      whole_[route][i] = metrics->AddHistogram("tessera_gateway_request_seconds",
                                               "From a request's arrival to its end, however it "
                                               "ended.",
                                               labels, RequestBuckets());
      queue_[route][i] = metrics->AddHistogram("tessera_gateway_queue_seconds",
                                               "In a worker's queue, of requests that left it.",
                                               labels, RequestBuckets());
    }
    for (size_t i = 0; i < kReuseShares; ++i) {
      first_token_[route][i] = metrics->AddHistogram(
          "tessera_gateway_time_to_first_token_seconds",
          "From a request's arrival to its first token, by the percentage of its prompt that came "
          "from a cache and was not recomputed.",
          {{"route", name}, {"reuse", std::string(ReuseName(static_cast<ReuseShare>(i)))}},
          FirstTokenBuckets());
    }
    next_token_[route] = metrics->AddHistogram("tessera_gateway_inter_token_seconds",
                                               "Between two tokens of one answer.",
                                               {{"route", name}}, NextTokenBuckets());
  }
}

void RequestMetrics::OnNextToken(Endpoint endpoint, absl::Duration gap) {
  Observe(next_token_[RouteIndex(endpoint)], gap);
}

void RequestMetrics::OnFinished(const CompletionReport& report) {
  const size_t route = RouteIndex(report.endpoint);
  const auto outcome = static_cast<size_t>(OutcomeOf(report.outcome));
  Observe(whole_[route][outcome], report.total);
  const worker::v1::PromptUsage& usage = report.usage;
  const uint64_t reused = uint64_t{usage.exact_tokens()} + usage.blended_tokens();
  const uint64_t total = reused + usage.recomputed_tokens() + usage.computed_tokens();
  // Without tokens no prefill has ended.
  if (total > 0) Observe(queue_[route][outcome], report.queued);
  if (report.ttft == absl::InfiniteDuration()) return;
  Observe(first_token_[route][static_cast<size_t>(ShareOf(reused, total))], report.ttft);
}

}  // namespace tessera::openai
