// How much each caller may ask for a minute.
#ifndef TESSERA_GATEWAY_ACCESS_RATE_LIMITER_H_
#define TESSERA_GATEWAY_ACCESS_RATE_LIMITER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/access/api_keys.h"

namespace tessera {

// What is left of one limit. `limit` 0: there is none, and the rest means nothing.
struct RateState {
  uint64_t limit = 0;
  uint64_t remaining = 0;
  // Until it is full again.
  absl::Duration reset;
};

struct Admission {
  bool admitted = true;
  // When refused: how long to wait.
  absl::Duration retry_after;
  RateState requests;
  RateState tokens;
};

// A bucket of a minute's requests and one of a minute's tokens for each caller, refilled evenly. A
// request costs one request at once; its tokens are known only when it has ended and are charged
// then, so that a caller may go into debt: it waits until the bucket holds something again.
// Thread-safe.
class RateLimiter {
 public:
  explicit RateLimiter(std::vector<KeyLimits> limits);

  // Takes one request of that caller, if it may have one. A refused request costs nothing.
  Admission Admit(size_t caller, absl::Time now);

  // That many tokens were used.
  void Charge(size_t caller, uint64_t tokens, absl::Time now);

 private:
  // Levels are as of `filled`.
  struct Buckets {
    KeyLimits limits;
    double requests = 0;
    double tokens = 0;
    absl::Time filled = absl::InfinitePast();
  };

  void Fill(Buckets& buckets, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  std::vector<Buckets> callers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ACCESS_RATE_LIMITER_H_
