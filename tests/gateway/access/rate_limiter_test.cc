#include "gateway/access/rate_limiter.h"

#include "gtest/gtest.h"

namespace tessera {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);

TEST(RateLimiterTest, RequestsRefillEvenly) {
  RateLimiter limiter(std::vector<KeyLimits>{{.requests = 6}});
  for (int left = 5; left >= 0; --left) {
    const Admission admission = limiter.Admit(0, kStart);
    EXPECT_TRUE(admission.admitted);
    EXPECT_EQ(admission.requests.limit, 6u);
    EXPECT_EQ(admission.requests.remaining, static_cast<uint64_t>(left));
    EXPECT_EQ(admission.requests.reset, absl::Seconds(10) * (6 - left));
    EXPECT_EQ(admission.tokens.limit, 0u);
  }
  const Admission refused = limiter.Admit(0, kStart + absl::Seconds(4));
  EXPECT_FALSE(refused.admitted);
  EXPECT_NEAR(absl::ToDoubleSeconds(refused.retry_after), 6, 1e-6);
  EXPECT_TRUE(limiter.Admit(0, kStart + absl::Seconds(11)).admitted);
  EXPECT_FALSE(limiter.Admit(0, kStart + absl::Seconds(11)).admitted);
  // An hour later there is a minute's worth, and no more.
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(limiter.Admit(0, kStart + absl::Hours(1)).admitted);
  EXPECT_FALSE(limiter.Admit(0, kStart + absl::Hours(1)).admitted);
}

TEST(RateLimiterTest, ACallerInDebtWaits) {
  RateLimiter limiter(std::vector<KeyLimits>{{.tokens = 60}});
  EXPECT_EQ(limiter.Admit(0, kStart).tokens.remaining, 60u);
  limiter.Charge(0, 90, kStart);
  const Admission refused = limiter.Admit(0, kStart);
  EXPECT_FALSE(refused.admitted);
  EXPECT_EQ(refused.tokens.remaining, 0u);
  EXPECT_NEAR(absl::ToDoubleSeconds(refused.retry_after), 31, 1e-6);
  EXPECT_NEAR(absl::ToDoubleSeconds(refused.tokens.reset), 90, 1e-6);
  EXPECT_FALSE(limiter.Admit(0, kStart + absl::Seconds(30)).admitted);
  EXPECT_TRUE(limiter.Admit(0, kStart + absl::Seconds(32)).admitted);
}

TEST(RateLimiterTest, CallersAreApartAndNoLimitIsNone) {
  RateLimiter limiter(std::vector<KeyLimits>{{.requests = 1}, {}, {.requests = 1}});
  EXPECT_TRUE(limiter.Admit(0, kStart).admitted);
  EXPECT_FALSE(limiter.Admit(0, kStart).admitted);
  EXPECT_TRUE(limiter.Admit(2, kStart).admitted);
  limiter.Charge(1, uint64_t{1} << 40, kStart);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(limiter.Admit(1, kStart).admitted);
}

TEST(RateLimiterTest, AClockThatGoesBackTakesNothing) {
  RateLimiter limiter(std::vector<KeyLimits>{{.requests = 2}});
  EXPECT_TRUE(limiter.Admit(0, kStart).admitted);
  EXPECT_TRUE(limiter.Admit(0, kStart - absl::Hours(1)).admitted);
  EXPECT_FALSE(limiter.Admit(0, kStart - absl::Hours(1)).admitted);
  EXPECT_TRUE(limiter.Admit(0, kStart - absl::Hours(1) + absl::Seconds(31)).admitted);
}

}  // namespace
}  // namespace tessera
