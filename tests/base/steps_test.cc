#include "base/steps.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

using Diary = std::vector<std::string>;

Steps<absl::StatusOr<int>> Count(int to, Diary& diary) {
  for (int i = 1; i < to; ++i) {
    diary.push_back(std::to_string(i));
    co_await NextStep();
  }
  if (to < 0) co_return absl::InvalidArgumentError("below zero");
  co_return to;
}

Steps<absl::StatusOr<int>> Sum(std::vector<int> counts, Diary& diary) {
  int sum = 0;
  for (const int to : counts) {
    CO_ASSIGN_OR_RETURN(const int counted, co_await Count(to, diary));
    sum += counted;
  }
  co_return sum;
}

TEST(StepsTest, StopsInsideOfPartsAndGivesTheResult) {
  Diary diary;
  auto sum = Sum({3, 1, 2}, diary);
  EXPECT_TRUE(diary.empty()) << "nothing runs before the first step";
  EXPECT_EQ(sum.Step(), StepState::kReady);
  EXPECT_EQ(diary, (Diary{"1"}));
  EXPECT_EQ(sum.Step(), StepState::kReady);
  EXPECT_EQ(sum.Step(), StepState::kReady);
  EXPECT_EQ(diary, (Diary{"1", "2", "1"}));
  EXPECT_EQ(sum.Step(), StepState::kDone);
  EXPECT_EQ(sum.TakeResult().value(), 6);
}

TEST(StepsTest, AnErrorEndsTheWhole) {
  Diary diary;
  auto sum = Sum({2, -1, 5}, diary);
  EXPECT_EQ(sum.Step(), StepState::kReady);
  EXPECT_EQ(sum.Step(), StepState::kDone);
  EXPECT_EQ(sum.TakeResult().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(diary, (Diary{"1"}));
}

Steps<std::unique_ptr<int>> Arrive(const bool& here) {
  while (!here) co_await WaitStep();
  co_return std::make_unique<int>(7);
}

TEST(StepsTest, WaitsUntilItIsHere) {
  bool here = false;
  auto arrive = Arrive(here);
  EXPECT_EQ(arrive.Step(), StepState::kWaiting);
  EXPECT_EQ(arrive.Step(), StepState::kWaiting);
  here = true;
  EXPECT_EQ(arrive.Step(), StepState::kDone);
  EXPECT_EQ(*arrive.TakeResult(), 7);
}

Steps<int> Patience(absl::Time until) {
  co_await WaitStep(until);
  co_await WaitStep();
  co_return 1;
}

TEST(StepsTest, SaysWhenToLookAgainAtTheLatest) {
  const absl::Time noon = absl::FromUnixSeconds(43200);
  auto patience = Patience(noon);
  EXPECT_EQ(patience.Step(), StepState::kWaiting);
  EXPECT_EQ(patience.waits_until(), noon);
  EXPECT_EQ(patience.Step(), StepState::kWaiting);
  EXPECT_EQ(patience.waits_until(), absl::InfiniteFuture());
  EXPECT_EQ(patience.Step(), StepState::kDone);
}

struct Farewell {
  Diary& diary;
  ~Farewell() { diary.push_back("gone"); }
};

Steps<int> Hold(Diary& diary) {
  const Farewell farewell{diary};
  co_await NextStep();
  co_return 1;
}

Steps<int> HoldWithin(Diary& diary) { co_return co_await Hold(diary); }

TEST(StepsTest, EndsWhereItStandsWhenDestroyed) {
  Diary diary;
  {
    auto hold = HoldWithin(diary);
    EXPECT_EQ(hold.Step(), StepState::kReady);
    EXPECT_TRUE(diary.empty());
  }
  EXPECT_EQ(diary, (Diary{"gone"}));
}

// GCC turns the passing on from one part to the next into jumps only when it optimizes fully, which
// builds with sanitizers do not.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
constexpr int kManyParts = 500;
#else
constexpr int kManyParts = 200000;
#endif

TEST(StepsTest, ManyPartsInARowUseNoStack) {
  Diary diary;
  auto sum = Sum(std::vector<int>(kManyParts, 1), diary);
  EXPECT_EQ(sum.Step(), StepState::kDone);
  EXPECT_EQ(sum.TakeResult().value(), kManyParts);
}

}  // namespace
}  // namespace tessera
