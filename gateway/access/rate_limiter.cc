#include "gateway/access/rate_limiter.h"

#include <algorithm>

namespace tessera {
namespace {

double Filled(double level, uint64_t limit, absl::Duration passed) {
  const double per_minute = static_cast<double>(limit);
  return std::min(per_minute, level + per_minute * absl::FDivDuration(passed, absl::Minutes(1)));
}

// Until the bucket has gained that much.
absl::Duration TimeFor(double amount, uint64_t limit) {
  return absl::Minutes(1) * (std::max(0.0, amount) / static_cast<double>(limit));
}

RateState StateOf(double level, uint64_t limit) {
  if (limit == 0) return {};
  return {limit, static_cast<uint64_t>(std::max(0.0, level)),
          TimeFor(static_cast<double>(limit) - level, limit)};
}

}  // namespace

RateLimiter::RateLimiter(std::vector<KeyLimits> limits) {
  for (const KeyLimits& limit : limits) callers_.push_back({.limits = limit});
}

void RateLimiter::Fill(Buckets& buckets, absl::Time now) {
  // Clocks may be set back; nothing is taken away then.
  const absl::Duration passed = std::max(absl::ZeroDuration(), now - buckets.filled);
  buckets.requests = Filled(buckets.requests, buckets.limits.requests, passed);
  buckets.tokens = Filled(buckets.tokens, buckets.limits.tokens, passed);
  buckets.filled = now;
}

Admission RateLimiter::Admit(size_t caller, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Buckets& buckets = callers_[caller];
  Fill(buckets, now);
  const KeyLimits& limits = buckets.limits;
  Admission admission;
  if (limits.requests > 0 && buckets.requests < 1) {
    admission.admitted = false;
    admission.retry_after = TimeFor(1 - buckets.requests, limits.requests);
  }
  if (limits.tokens > 0 && buckets.tokens < 1) {
    admission.admitted = false;
    admission.retry_after =
        std::max(admission.retry_after, TimeFor(1 - buckets.tokens, limits.tokens));
  }
  if (admission.admitted && limits.requests > 0) buckets.requests -= 1;
  admission.requests = StateOf(buckets.requests, limits.requests);
  admission.tokens = StateOf(buckets.tokens, limits.tokens);
  return admission;
}

void RateLimiter::Charge(size_t caller, uint64_t tokens, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Buckets& buckets = callers_[caller];
  if (buckets.limits.tokens == 0) return;
  Fill(buckets, now);
  buckets.tokens -= static_cast<double>(tokens);
}

}  // namespace tessera
