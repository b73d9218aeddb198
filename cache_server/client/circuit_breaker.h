// When to stop asking a server that keeps failing.
#ifndef TESSERA_CACHE_SERVER_CLIENT_CIRCUIT_BREAKER_H_
#define TESSERA_CACHE_SERVER_CLIENT_CIRCUIT_BREAKER_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

struct CircuitBreakerOptions {
  int failures = 3;                               // in a row, before calls are skipped
  absl::Duration first_pause = absl::Seconds(1);  // doubles with each failed try after it
  absl::Duration longest_pause = absl::Seconds(30);
};

// Closed: every call may go. After `failures` failures in a row it opens: no call goes until the
// pause is over; then one call goes as a try, and the next pause begins at once, so that a crowd
// does not wait on a dead server. A success closes it. The caller passes the time, so that tests
// need no waiting. Thread-safe.
class CircuitBreaker {
 public:
  explicit CircuitBreaker(CircuitBreakerOptions options = {}) : options_(options) {}

  // Whether a call may be made now. After true, report how it ended, unless nothing was learnt.
  bool Allow(absl::Time now);

  void RecordSuccess();
  void RecordFailure(absl::Time now);

 private:
  const CircuitBreakerOptions options_;
  absl::Mutex mutex_;
  int failures_in_row_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration pause_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();  // zero: closed
  absl::Time paused_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool trying_ ABSL_GUARDED_BY(mutex_) = false;  // open, and a try is under way
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_CIRCUIT_BREAKER_H_
