#include "gpu_worker/calibrate/calibration.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/tiny_model.h"

namespace tessera {
namespace {

Calibration Sample() {
  Calibration calibration;
  calibration.fingerprint = std::string(64, 'a');
  calibration.policy = "query_v+first";
  calibration.recompute_ratio = 0.15;
  calibration.correction = true;
  calibration.sink = "lead";
  calibration.budget = "KL=0.2";
  calibration.date = "2026-11-28";
  calibration.device = "cpu-f32";
  calibration.cases = 18;
  calibration.mean_tokens = 2000;
  calibration.kl1 = 0.125;
  calibration.kl16 = 0.0625;
  calibration.kl16_worst = 3;
  calibration.ttft_share = 0.3;
  return calibration;
}

class CalibrationTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) { std::ofstream(CalibrationPath(folder_)) << text; }
  std::string Text() {
    std::stringstream text;
    text << std::ifstream(CalibrationPath(folder_)).rdbuf();
    return text.str();
  }
  absl::StatusOr<std::optional<Calibration>> Read() {
    return ReadCalibration(folder_, Sample().fingerprint);
  }
  void ExpectAdvice(const std::string& words) {
    const absl::Status status = Read().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << words;
    EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), CalibrationPath(folder_))) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "delete the file, or calibrate again"))
        << status;
  }

  const std::string folder_ = TestFolder("calibration");
};

TEST_F(CalibrationTest, WhatWasWrittenIsRead) {
  ASSERT_TRUE(WriteCalibration(folder_, {}).ok());
  ASSERT_TRUE(WriteCalibration(folder_, Sample()).ok()) << "over the one that is there";
  const auto read = Read();
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(read->has_value());
  const Calibration want = Sample();
  EXPECT_EQ((*read)->policy, want.policy);
  EXPECT_EQ((*read)->recompute_ratio, want.recompute_ratio);
  EXPECT_EQ((*read)->correction, want.correction);
  EXPECT_EQ((*read)->sink, want.sink);
  EXPECT_EQ((*read)->budget, want.budget);
  EXPECT_EQ((*read)->date, want.date);
  EXPECT_EQ((*read)->device, want.device);
  EXPECT_EQ((*read)->cases, want.cases);
  EXPECT_EQ((*read)->mean_tokens, want.mean_tokens);
  EXPECT_EQ((*read)->kl1, want.kl1);
  EXPECT_EQ((*read)->kl16, want.kl16);
  EXPECT_EQ((*read)->kl16_worst, want.kl16_worst);
  EXPECT_EQ((*read)->ttft_share, want.ttft_share);
  // And nothing else is left in the folder.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_),
                          std::filesystem::directory_iterator()),
            1);
}

TEST_F(CalibrationTest, NoneIsNoError) {
  const auto read = Read();
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_FALSE(read->has_value());
}

TEST_F(CalibrationTest, AnotherModelsIsRefused) {
  ASSERT_TRUE(WriteCalibration(folder_, Sample()).ok());
  const absl::Status status = ReadCalibration(folder_, std::string(64, 'b')).status();
  EXPECT_TRUE(absl::StrContains(status.message(), "made for another model")) << status;
}

TEST_F(CalibrationTest, WhatIsNoCalibrationIsRefused) {
  for (const char* text : {"{", "[]", "7", "null", "not JSON"}) {
    Write(text);
    ExpectAdvice("it is no JSON object");
  }
  Write("");
  ExpectAdvice("calibration");
  Write("{}");
  ExpectAdvice("format is no");
  std::filesystem::remove(CalibrationPath(folder_));
  std::filesystem::create_directory(CalibrationPath(folder_));
  ExpectAdvice("calibration");
}

TEST_F(CalibrationTest, EveryFieldIsChecked) {
  ASSERT_TRUE(WriteCalibration(folder_, Sample()).ok());
  const std::string good = Text();
  const std::pair<const char*, const char*> changes[] = {
      {"\"format\":1", "\"format\":2"},
      {"\"policy\":\"query_v+first\"", "\"policy\":\"best\""},
      {"\"policy\":", "\"polici\":"},
      {"\"sink\":\"lead\"", "\"sink\":\"kitchen\""},
      {"\"correction\":true", "\"correction\":1"},
      {"\"recompute_ratio\":1.5E-1", "\"recompute_ratio\":1.5"},
      {"\"recompute_ratio\":1.5E-1", "\"recompute_ratio\":\"0.15\""},
      {"\"kl16\":6.25E-2", "\"kl16\":-1"},
      {"\"cases\":18", "\"cases\":0"},
      {"\"date\":\"2026-11-28\"", "\"date\":null"},
  };
  for (const auto& [from, to] : changes) {
    const std::string changed = absl::StrReplaceAll(good, {{from, to}});
    ASSERT_NE(changed, good) << from << " is not in " << good;
    Write(changed);
    ExpectAdvice("no calibration");
  }
  Write(good);
  EXPECT_TRUE(Read().ok());
}

TEST_F(CalibrationTest, AFolderThatIsNotThereIsNamed) {
  const absl::Status status = WriteCalibration(folder_ + "/none", Sample());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(status.message(), "/none/tessera_calibration.json")) << status;
}

}  // namespace
}  // namespace tessera
