#include "gpu_worker/calibrate/budget.h"

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

CandidateFigures Figures(double kl16, double ttft_share) {
  CandidateFigures figures;
  figures.kl16 = kl16;
  figures.ttft_share = ttft_share;
  return figures;
}

Budget Parsed(const std::string& text) {
  const auto budget = Budget::Parse(text);
  EXPECT_TRUE(budget.ok()) << budget.status();
  return budget.value_or(Budget());
}

TEST(BudgetTest, IsWrittenTwoWays) {
  EXPECT_EQ(Parsed("KL=0.2").kind, Budget::Kind::kKl);
  EXPECT_EQ(Parsed("kl=2e-3").most, 2e-3);
  EXPECT_EQ(Parsed("ttft=0.4x").kind, Budget::Kind::kTtft);
  EXPECT_EQ(Parsed("TTFT=0.4x").most, 0.4);
  EXPECT_EQ(Parsed("ttft=0.4").most, 0.4);
  for (const char* bad : {"", "0.2", "KL", "KL=", "KL=x", "KL=0", "KL=-1", "KL=nan", "KL=inf",
                          "KL=0.2x", "ttft=x", "ttft=0.4s", "top1=1"}) {
    const absl::Status status = Budget::Parse(bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_TRUE(absl::StrContains(status.message(), "give KL=0.2")) << status;
  }
}

TEST(BudgetTest, OfKlBuysTheFastestWithinIt) {
  const std::vector<CandidateFigures> all = {Figures(0.5, 0.1), Figures(0.2, 0.3),
                                             Figures(0.1, 0.3), Figures(0.01, 0.8)};
  EXPECT_EQ(Choose(all, Parsed("KL=0.2")), 2u) << "as fast as another, and closer";
  EXPECT_EQ(Choose(all, Parsed("KL=0.6")), 0u);
  EXPECT_EQ(Choose(all, Parsed("KL=0.05")), 3u);
  EXPECT_EQ(Choose(all, Parsed("KL=0.001")), std::nullopt);
  EXPECT_EQ(Nearest(all, Parsed("KL=0.001")), 3u);
}

TEST(BudgetTest, OfTimeBuysTheClosestWithinIt) {
  const std::vector<CandidateFigures> all = {Figures(0.5, 0.1), Figures(0.1, 0.3),
                                             Figures(0.1, 0.2), Figures(0.01, 0.8)};
  EXPECT_EQ(Choose(all, Parsed("ttft=0.4x")), 2u);
  EXPECT_EQ(Choose(all, Parsed("ttft=0.15x")), 0u);
  EXPECT_EQ(Choose(all, Parsed("ttft=1x")), 3u);
  EXPECT_EQ(Choose(all, Parsed("ttft=0.05x")), std::nullopt);
  EXPECT_EQ(Nearest(all, Parsed("ttft=0.05x")), 0u);
}

}  // namespace
}  // namespace tessera
