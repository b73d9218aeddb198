// Calibration over a tiny model: figures that must hold, what is chosen, and what is said
// otherwise.
#include "gpu_worker/calibrate/calibrate.h"

#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gpu_worker/calibrate/calibration.h"
#include "gpu_worker/calibrate/calibrator.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

class CalibrateTest : public ::testing::Test {
 protected:
  static TokenCase Case(uint32_t seed) {
    return {TinyTokens(1, 12), TinyTokens(seed, 40), TinyTokens(seed + 1, 33),
            TinyTokens(seed + 2, 25), TinyTokens(seed + 3, 9)};
  }

  static SelectionPolicy Policy(const std::string& name) {
    return SelectionPolicy::Parse(name).value();
  }

  static void WriteCases(const std::string& path, int cases) {
    std::ofstream file(path);
    for (int i = 0; i < cases; ++i) {
      std::vector<std::string> segments;
      for (const auto& ids : Case(10 * i + 10)) {
        segments.push_back(absl::StrCat("[", absl::StrJoin(ids, ","), "]"));
      }
      file << "{\"segments\": [" << absl::StrJoin(segments, ",") << "]}\n";
    }
  }

  absl::Status Run(const std::string& budget,
                   const std::vector<std::string>& policies = {"none", "query_v"}) {
    WriteCases(folder_ + "/cases.jsonl", 3);
    return Calibrate({.model_folder = folder_,
                      .cases = folder_ + "/cases.jsonl",
                      .budget = budget,
                      .policies = policies,
                      .ratios = {"0.1", "0.5", "1"},
                      .sinks = {}},
                     *worker_.decoder, worker_.fingerprint, worker_.config, never_);
  }

  bool written() const { return std::filesystem::exists(CalibrationPath(folder_)); }

  const CancelFlag never_;
  const std::unique_ptr<CacheClient> no_cache_ = MakeNullCacheClient();
  TinyWorker worker_{no_cache_.get()};
  const std::string folder_ = TestFolder("calibrate");
};

TEST_F(CalibrateTest, CandidatesAreAllThatDiffer) {
  const std::vector<SelectionPolicy> policies = {Policy("none"), Policy("full"), Policy("first_k"),
                                                 Policy("query_v")};
  const std::vector<double> ratios = {0.1, 0.2};
  const std::vector<SinkKind> sinks = {SinkKind::kBos, SinkKind::kNone};
  // none, full, first_k twice, query_v at two ratios twice: behind two sinks.
  EXPECT_EQ(MakeCandidates(sinks, policies, ratios).size(), 2u * (1 + 1 + 2 + 4));
}

TEST_F(CalibrateTest, FiguresRankAsTheyMust) {
  const std::vector<SinkKind> sinks = {SinkKind::kBos, SinkKind::kLead};
  const std::vector<SelectionPolicy> policies = {Policy("none"), Policy("full"), Policy("hkvd_v"),
                                                 Policy("query_v")};
  const std::vector<double> ratios = {0.5, 1};
  Calibrator calibrator(worker_.decoder.get(), worker_.fingerprint, worker_.config,
                        MakeCandidates(sinks, policies, ratios));
  EXPECT_TRUE(calibrator.Figures().empty());
  int steps = 0;
  for (uint32_t seed : {10, 20, 30, 40}) {
    ASSERT_TRUE(calibrator.Measure(Case(seed), never_, [&] { ++steps; }).ok());
  }
  const std::vector<CandidateFigures> all = calibrator.Figures();
  EXPECT_EQ(steps, 4 * static_cast<int>(1 + all.size()));
  std::map<std::string, CandidateFigures> by_name;
  for (const CandidateFigures& f : all) {
    EXPECT_EQ(f.cases, 4);
    EXPECT_GT(f.ttft_seconds, 0);
    EXPECT_GE(f.kl16_worst, f.kl16);
    by_name[absl::StrCat(static_cast<int>(f.candidate.sink), f.candidate.policy.name(),
                         f.candidate.ratio, f.candidate.correction)] = f;
  }
  for (const int sink : {static_cast<int>(SinkKind::kBos), static_cast<int>(SinkKind::kLead)}) {
    auto at = [&](const std::string& name) { return by_name.at(absl::StrCat(sink, name)); };
    const double none = at("none00").kl16;
    // All rows recomputed: only the lead's rounding to bf16 is left.
    for (const char* exact : {"full00", "query_v10", "query_v11", "hkvd_v10"}) {
      EXPECT_LT(at(exact).kl16, 0.02 * none) << exact;
      EXPECT_GT(at(exact).top1, 0.9) << exact;
    }
    EXPECT_LT(at("query_v0.50").kl16, none);
    EXPECT_GT(at("query_v0.50").kl16, at("query_v10").kl16);
    EXPECT_EQ(at("none00").rows, 0);
    EXPECT_NEAR(at("full00").rows,
                sink == static_cast<int>(SinkKind::kBos) ? 98 / 119.0 : 58 / 119.0, 1e-9);
  }
}

TEST_F(CalibrateTest, FiguresAreThoseOfTheSameRunAgain) {
  const std::vector<SinkKind> sinks = {SinkKind::kBos};
  const std::vector<SelectionPolicy> policies = {Policy("query_v")};
  const std::vector<double> ratios = {0.2};
  std::vector<double> kls;
  for (int run = 0; run < 2; ++run) {
    Calibrator calibrator(worker_.decoder.get(), worker_.fingerprint, worker_.config,
                          MakeCandidates(sinks, policies, ratios));
    for (int i = 0; i <= run; ++i) {
      ASSERT_TRUE(calibrator.Measure(Case(50), never_, [] {}).ok());
    }
    kls.push_back(calibrator.Figures()[1].kl16);
    EXPECT_EQ(calibrator.Figures()[1].kl16_error, 0);
  }
  EXPECT_EQ(kls[0], kls[1]);
}

TEST_F(CalibrateTest, WritesWhatTheBudgetBuys) {
  ASSERT_TRUE(Run("KL=100").ok()) << "anything is close enough";
  auto read = ReadCalibration(folder_, worker_.fingerprint.ToHex());
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(read->has_value());
  EXPECT_EQ((*read)->budget, "KL=100");
  EXPECT_EQ((*read)->sink, "bos");
  EXPECT_EQ((*read)->cases, 3);
  EXPECT_EQ((*read)->mean_tokens, 119);
  const double loose = (*read)->ttft_share;
  ASSERT_TRUE(Run("ttft=1000x").ok()) << "however long it takes";
  read = ReadCalibration(folder_, worker_.fingerprint.ToHex());
  EXPECT_EQ((*read)->policy, "query_v");
  EXPECT_EQ((*read)->recompute_ratio, 1);
  EXPECT_LT((*read)->kl16, 1e-2);
  EXPECT_GT(loose, 0);
}

TEST_F(CalibrateTest, WritesNothingWhenNothingIsGoodEnough) {
  const absl::Status status = Run("KL=1e-9", {"none"});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "Nearest: none")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "no calibration was written")) << status;
  EXPECT_FALSE(written());
  EXPECT_EQ(Run("ttft=0.000001x").code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(written());
}

TEST_F(CalibrateTest, RefusesWhatItCannotRun) {
  EXPECT_TRUE(absl::StrContains(Run("").message(), "--budget"));
  EXPECT_TRUE(absl::StrContains(Run("KL=1", {"best"}).message(), "query_v"));
  EXPECT_TRUE(absl::StrContains(Run("KL=1", {}).message(), "nothing to calibrate"));
  CancelFlag stopped;
  stopped.Set();
  WriteCases(folder_ + "/cases.jsonl", 1);
  const absl::Status status =
      Calibrate({.model_folder = folder_,
                 .cases = folder_ + "/cases.jsonl",
                 .budget = "KL=1",
                 .policies = {"none"}},
                *worker_.decoder, worker_.fingerprint, worker_.config, stopped);
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(written());
}

}  // namespace
}  // namespace tessera
