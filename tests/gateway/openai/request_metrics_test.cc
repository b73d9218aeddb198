#include "gateway/openai/request_metrics.h"

#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace tessera::openai {
namespace {

class RequestMetricsTest : public ::testing::Test {
 protected:
  // The value of "name{labels}" without the prefix; -1 when it is not there.
  double Value(const std::string& series) const {
    for (const absl::string_view line : absl::StrSplit(registry_->Text(), '\n')) {
      const std::string start = absl::StrCat("tessera_gateway_", series, " ");
      if (absl::StartsWith(line, start)) return std::stod(std::string(line.substr(start.size())));
    }
    return -1;
  }

  static CompletionReport Report(uint32_t blended, uint32_t computed) {
    CompletionReport report;
    report.endpoint = Endpoint::kChat;
    report.outcome = absl::StatusCode::kOk;
    report.usage.set_blended_tokens(blended);
    report.usage.set_computed_tokens(computed);
    report.ttft = absl::Seconds(1);
    report.total = absl::Seconds(3);
    report.queued = absl::Milliseconds(250);
    return report;
  }

  const std::unique_ptr<Metrics> registry_ = Metrics::Make();
  RequestMetrics requests_{registry_.get()};
};

TEST_F(RequestMetricsTest, TimesGoWhereTheRequestBelongs) {
  requests_.OnFinished(Report(60, 40));
  requests_.OnNextToken(Endpoint::kCompletions, absl::Milliseconds(500));
  EXPECT_EQ(Value(R"(time_to_first_token_seconds_sum{reuse="50-90",route="chat"})"), 1);
  EXPECT_EQ(Value(R"(time_to_first_token_seconds_count{reuse="0",route="chat"})"), 0);
  EXPECT_EQ(Value(R"(time_to_first_token_seconds_count{reuse="50-90",route="completions"})"), 0);
  EXPECT_EQ(Value(R"(request_seconds_sum{outcome="ok",route="chat"})"), 3);
  EXPECT_EQ(Value(R"(queue_seconds_sum{outcome="ok",route="chat"})"), 0.25);
  EXPECT_EQ(Value(R"(inter_token_seconds_sum{route="completions"})"), 0.5);
  EXPECT_EQ(Value(R"(inter_token_seconds_count{route="chat"})"), 0);
}

TEST_F(RequestMetricsTest, ARefusedRequestHasOnlyAnEnd) {
  CompletionReport report;
  report.outcome = absl::StatusCode::kResourceExhausted;
  report.total = absl::Milliseconds(1);
  requests_.OnFinished(report);
  EXPECT_EQ(Value(R"(request_seconds_count{outcome="rejected",route="completions"})"), 1);
  EXPECT_EQ(Value(R"(queue_seconds_count{outcome="rejected",route="completions"})"), 0);
  EXPECT_EQ(Value(R"(time_to_first_token_seconds_count{reuse="0",route="completions"})"), 0);
}

TEST_F(RequestMetricsTest, RecomputedTokensAreNotReused) {
  CompletionReport report = Report(0, 10);
  report.usage.set_recomputed_tokens(90);
  requests_.OnFinished(report);
  EXPECT_EQ(Value(R"(time_to_first_token_seconds_count{reuse="0",route="chat"})"), 1);
}

TEST(RequestOutcomeTest, EveryStatusHasOne) {
  EXPECT_EQ(OutcomeName(OutcomeOf(absl::StatusCode::kOk)), "ok");
  EXPECT_EQ(OutcomeName(OutcomeOf(absl::StatusCode::kCancelled)), "cancelled");
  EXPECT_EQ(OutcomeName(OutcomeOf(absl::StatusCode::kNotFound)), "invalid");
  EXPECT_EQ(OutcomeName(OutcomeOf(absl::StatusCode::kResourceExhausted)), "rejected");
  EXPECT_EQ(OutcomeName(OutcomeOf(absl::StatusCode::kUnavailable)), "unavailable");
  EXPECT_EQ(OutcomeName(OutcomeOf(absl::StatusCode::kDeadlineExceeded)), "timeout");
  EXPECT_EQ(OutcomeName(OutcomeOf(absl::StatusCode::kInternal)), "failed");
  EXPECT_EQ(OutcomeName(OutcomeOf(absl::StatusCode::kUnknown)), "failed");
}

TEST(ReuseShareTest, BordersBelongToTheUpperOne) {
  EXPECT_EQ(ReuseName(ShareOf(0, 100)), "0");
  EXPECT_EQ(ReuseName(ShareOf(0, 0)), "0");
  EXPECT_EQ(ReuseName(ShareOf(1, 100)), "0-50");
  EXPECT_EQ(ReuseName(ShareOf(49, 100)), "0-50");
  EXPECT_EQ(ReuseName(ShareOf(50, 100)), "50-90");
  EXPECT_EQ(ReuseName(ShareOf(89, 100)), "50-90");
  EXPECT_EQ(ReuseName(ShareOf(90, 100)), "90-100");
  EXPECT_EQ(ReuseName(ShareOf(100, 100)), "90-100");
}

}  // namespace
}  // namespace tessera::openai
