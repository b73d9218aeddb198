// Times of requests as their clients see them: by route, by how they ended, and by how much of the
// prompt was reused. All names begin with tessera_gateway_.
#ifndef TESSERA_GATEWAY_OPENAI_REQUEST_METRICS_H_
#define TESSERA_GATEWAY_OPENAI_REQUEST_METRICS_H_

#include <array>
#include <cstddef>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/metrics.h"
#include "gateway/openai/observer.h"

namespace tessera::openai {

// How a request ended, for labels.
enum class RequestOutcome {
  kOk,
  kCancelled,    // the client left, or read too slowly
  kInvalid,      // 4xx: what was asked for cannot be done
  kRejected,     // 429: a queue is full
  kUnavailable,  // 503: no worker is there
  kTimeout,      // 504
  kFailed,       // all others
};
inline constexpr size_t kRequestOutcomes = 7;
RequestOutcome OutcomeOf(absl::StatusCode code);
// "ok", "cancelled", ...
std::string_view OutcomeName(RequestOutcome outcome);

// How much of a prompt came from a cache and was not recomputed.
enum class ReuseShare { kNone, kLow, kMiddle, kHigh };
inline constexpr size_t kReuseShares = 4;
// reused, total: tokens; a prompt without tokens reuses nothing.
ReuseShare ShareOf(uint64_t reused, uint64_t total);
// In percent of its tokens: "0", "0-50" (below 50), "50-90" (below 90), "90-100".
std::string_view ReuseName(ReuseShare share);

// Thread-safe. Every series is there from the start, so that a rate sees the first request too.
class RequestMetrics {
 public:
  // `metrics` must outlive it.
  explicit RequestMetrics(Metrics* metrics);

  void OnNextToken(Endpoint endpoint, absl::Duration gap);
  void OnFinished(const CompletionReport& report);

 private:
  static constexpr size_t kRoutes = 2;
  using ByOutcome = std::array<ValueHistogram*, kRequestOutcomes>;
  using ByReuse = std::array<ValueHistogram*, kReuseShares>;

  // By route; they live in `metrics`.
  std::array<ByOutcome, kRoutes> whole_;
  std::array<ByOutcome, kRoutes> queue_;
  std::array<ByReuse, kRoutes> first_token_;
  std::array<ValueHistogram*, kRoutes> next_token_;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_REQUEST_METRICS_H_
