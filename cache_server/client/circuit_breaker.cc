#include "cache_server/client/circuit_breaker.h"

#include <algorithm>

namespace tessera {

bool CircuitBreaker::Allow(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (pause_ == absl::ZeroDuration()) return true;
  if (now < paused_until_) return false;
  paused_until_ = now + pause_;
  trying_ = true;
  return true;
}

void CircuitBreaker::RecordSuccess() {
  absl::MutexLock lock(&mutex_);
  failures_in_row_ = 0;
  pause_ = absl::ZeroDuration();
  trying_ = false;
}

void CircuitBreaker::RecordFailure(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  ++failures_in_row_;
  if (failures_in_row_ < options_.failures) return;
  // Calls that were already under way when it opened say nothing new.
  const bool open = pause_ != absl::ZeroDuration();
  if (open && !trying_) return;
  trying_ = false;
  pause_ = open ? std::min(2 * pause_, options_.longest_pause) : options_.first_pause;
  paused_until_ = now + pause_;
}

}  // namespace tessera
