#include "gpu_worker/blend/policy.h"

#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

// Rows 2..21 are candidates in two chunks of 10; the first 3 rows of each are first rows.
PromptRows TwentyCandidates() {
  PromptRows rows;
  rows.count = 25;
  rows.candidates.resize(20);
  std::iota(rows.candidates.begin(), rows.candidates.end(), 2);
  rows.first_rows = {2, 3, 4, 12, 13, 14};
  return rows;
}

std::vector<int32_t> Select(const std::string& name, double ratio) {
  std::vector<float> scores(25);
  for (int r = 0; r < 25; ++r) scores[r] = static_cast<float>(r % 7);
  return SelectionPolicy::Parse(name)->Select(TwentyCandidates(), scores, ratio);
}

TEST(PolicyTest, BudgetIsTheCeilingOfTheRatio) {
  EXPECT_EQ(RecomputeBudget(0.15, 20), 3);
  EXPECT_EQ(RecomputeBudget(0.15f, 20), 3);  // a float's 0.15 is a little more
  EXPECT_EQ(RecomputeBudget(0.15, 21), 4);
  EXPECT_EQ(RecomputeBudget(0, 20), 0);
  EXPECT_EQ(RecomputeBudget(1, 20), 20);
  EXPECT_EQ(RecomputeBudget(0.5, 0), 0);
}

TEST(PolicyTest, ScoredPoliciesTakeTheBestCandidates) {
  for (const char* name : {"query_v", "query", "hkvd_v", "hkvd_k"}) {
    EXPECT_EQ(Select(name, 0.15), (std::vector<int32_t>{6, 13, 20})) << name;
    EXPECT_EQ(Select(name, 0.16), (std::vector<int32_t>{5, 6, 13, 20}))
        << name;  // ties: earlier row
    EXPECT_EQ(Select(name, 0), std::vector<int32_t>()) << name;
    EXPECT_EQ(Select(name, 1), TwentyCandidates().candidates) << name;
  }
}

TEST(PolicyTest, PoliciesWithoutScores) {
  EXPECT_EQ(Select("none", 0.5), std::vector<int32_t>());
  EXPECT_EQ(Select("full", 0.1), TwentyCandidates().candidates);
  EXPECT_EQ(Select("first_k", 0.1), TwentyCandidates().first_rows);
  const std::vector<int32_t> random = Select("random", 0.25);
  EXPECT_EQ(random.size(), 5u);
  EXPECT_EQ(random, Select("random", 0.25));
  EXPECT_NE(random, (std::vector<int32_t>{2, 3, 4, 5, 6}));
}

TEST(PolicyTest, SumsJoinTheFirstRows) {
  EXPECT_EQ(Select("query_v+first", 0.15), (std::vector<int32_t>{2, 3, 4, 6, 12, 13, 14, 20}));
}

TEST(PolicyTest, KnowsWhatItNeeds) {
  EXPECT_TRUE(SelectionPolicy::Parse("query_v+first")->needs_query_pass());
  EXPECT_TRUE(SelectionPolicy::Parse("query")->corrects_by_default());
  EXPECT_TRUE(SelectionPolicy::Parse("hkvd_k")->needs_deviation());
  EXPECT_FALSE(SelectionPolicy::Parse("hkvd_v")->corrects_by_default());
  EXPECT_EQ(SelectionPolicy().name(), "query_v");
}

TEST(PolicyTest, RefusesUnknownNamesAndSaysWhichThereAre) {
  for (const char* name : {"", "best", "query_v+", "+first", "QUERY"}) {
    const auto policy = SelectionPolicy::Parse(name);
    ASSERT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_TRUE(absl::StrContains(policy.status().message(), "hkvd_v"));
  }
}

}  // namespace
}  // namespace tessera
