#include "cache_server/store/pin_table.h"

#include <memory>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/test_ram_tier.h"
#include "tests/cache_server/testing/tier_doubles.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 2, .slice_bytes = 4096};

class PinTableTest : public ::testing::Test {
 protected:
  PinTableTest() {
    for (uint32_t number = 0; number < 4; ++number) {
      EXPECT_TRUE(PutTestPiece(&tier_, number, kShape).ok());
    }
  }
  ReadHandle Handle(uint32_t number) { return *tier_.Get(TestKey(number)); }

  const std::shared_ptr<TierControl> control_ = std::make_shared<TierControl>();
  WrappedTier tier_{MakeTestRamTier(1 << 20), control_};
  const PinOptions options_ = {.most_bytes = 2 * kShape.bytes(), .longest_ttl = absl::Hours(1)};
};

TEST_F(PinTableTest, HoldsUntilUnpinned) {
  PinTable pins(options_);
  ASSERT_TRUE(pins.Pin(TestKey(0), Handle(0), absl::Minutes(1)).ok());
  EXPECT_TRUE(pins.IsPinned(TestKey(0)));
  EXPECT_EQ(control_->pins(), 1);
  EXPECT_EQ(pins.bytes(), kShape.bytes());
  EXPECT_TRUE(pins.Unpin(TestKey(0)));
  EXPECT_FALSE(pins.Unpin(TestKey(0)));
  EXPECT_EQ(control_->pins(), 0);
  EXPECT_EQ(pins.bytes(), 0u);
}

TEST_F(PinTableTest, TheTtlEndsIt) {
  PinTable pins(options_);
  ASSERT_TRUE(pins.Pin(TestKey(0), Handle(0), absl::Milliseconds(30)).ok());
  EXPECT_TRUE(control_->WaitForNoPins(absl::Seconds(20)));
  EXPECT_EQ(pins.size(), 0u);
}

TEST_F(PinTableTest, PinningAgainSetsANewEnd) {
  PinTable pins(options_);
  ASSERT_TRUE(pins.Pin(TestKey(0), Handle(0), absl::Milliseconds(30)).ok());
  ASSERT_TRUE(pins.Pin(TestKey(0), Handle(0), absl::Minutes(30)).ok());
  // A pin that ends after the first end would have: when it is gone, that end has passed.
  ASSERT_TRUE(pins.Pin(TestKey(1), Handle(1), absl::Milliseconds(60)).ok());
  while (pins.IsPinned(TestKey(1))) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(pins.IsPinned(TestKey(0)));
  EXPECT_GT(pins.Remaining(TestKey(0), absl::Now()), absl::Minutes(29));
  EXPECT_EQ(pins.bytes(), kShape.bytes());
  // And a shorter one ends it sooner.
  ASSERT_TRUE(pins.Pin(TestKey(0), Handle(0), absl::Milliseconds(10)).ok());
  EXPECT_TRUE(control_->WaitForNoPins(absl::Seconds(20)));
}

TEST_F(PinTableTest, BytesAreBounded) {
  PinTable pins(options_);
  ASSERT_TRUE(pins.Pin(TestKey(0), Handle(0), absl::Minutes(1)).ok());
  ASSERT_TRUE(pins.Pin(TestKey(1), Handle(1), absl::Minutes(1)).ok());
  EXPECT_EQ(pins.Pin(TestKey(2), Handle(2), absl::Minutes(1)).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(pins.Pin(TestKey(1), Handle(1), absl::Minutes(2)).ok()) << "it is pinned already";
  EXPECT_TRUE(pins.Unpin(TestKey(0)));
  EXPECT_TRUE(pins.Pin(TestKey(2), Handle(2), absl::Minutes(1)).ok());
}

TEST_F(PinTableTest, TtlsAreChecked) {
  PinTable pins(options_);
  for (const absl::Duration ttl : {absl::ZeroDuration(), -absl::Seconds(1), absl::Hours(2)}) {
    EXPECT_EQ(pins.Pin(TestKey(0), Handle(0), ttl).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(pins.size(), 0u);
}

TEST_F(PinTableTest, ItsEndLetsGo) {
  {
    PinTable pins(options_);
    ASSERT_TRUE(pins.Pin(TestKey(0), Handle(0), absl::Minutes(1)).ok());
  }
  EXPECT_EQ(control_->pins(), 0);
}

}  // namespace
}  // namespace tessera::testing
