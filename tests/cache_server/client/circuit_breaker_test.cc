#include "cache_server/client/circuit_breaker.h"

#include "gtest/gtest.h"

namespace tessera {
namespace {

absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

void Fail(CircuitBreaker* breaker, int times, absl::Time now) {
  for (int i = 0; i < times; ++i) breaker->RecordFailure(now);
}

TEST(CircuitBreakerTest, OpensAfterThreeFailuresInARow) {
  CircuitBreaker breaker;
  Fail(&breaker, 2, At(0));
  EXPECT_TRUE(breaker.Allow(At(0)));
  breaker.RecordSuccess();
  Fail(&breaker, 2, At(0));
  EXPECT_TRUE(breaker.Allow(At(0)));
  Fail(&breaker, 1, At(0));
  EXPECT_FALSE(breaker.Allow(At(0.99)));
}

TEST(CircuitBreakerTest, OneTryPerPause) {
  CircuitBreaker breaker;
  Fail(&breaker, 3, At(0));
  EXPECT_TRUE(breaker.Allow(At(1)));
  EXPECT_FALSE(breaker.Allow(At(1.5)));
  // Nothing was heard of the try: the next one goes a pause later.
  EXPECT_TRUE(breaker.Allow(At(2)));
}

TEST(CircuitBreakerTest, PausesDoubleUpToThirtySeconds) {
  CircuitBreaker breaker;
  Fail(&breaker, 3, At(0));
  double now = 1;
  for (double pause : {2, 4, 8, 16, 30, 30}) {
    ASSERT_TRUE(breaker.Allow(At(now)));
    breaker.RecordFailure(At(now));
    EXPECT_FALSE(breaker.Allow(At(now + pause - 0.01))) << pause;
    now += pause;
  }
}

TEST(CircuitBreakerTest, LateFailuresOfTheSameOutageDoNotDouble) {
  CircuitBreaker breaker;
  Fail(&breaker, 20, At(0));
  EXPECT_TRUE(breaker.Allow(At(1)));
}

TEST(CircuitBreakerTest, SuccessResets) {
  CircuitBreaker breaker;
  Fail(&breaker, 3, At(0));
  ASSERT_TRUE(breaker.Allow(At(1)));
  breaker.RecordFailure(At(1));
  ASSERT_TRUE(breaker.Allow(At(3)));
  breaker.RecordSuccess();
  EXPECT_TRUE(breaker.Allow(At(3)));
  Fail(&breaker, 3, At(3));
  EXPECT_FALSE(breaker.Allow(At(3.99)));
  EXPECT_TRUE(breaker.Allow(At(4)));
}

}  // namespace
}  // namespace tessera
