#include "gpu_worker/calibrate/token_cases.h"

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/tiny_model.h"

namespace tessera {
namespace {

class TokenCasesTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<TokenCase>> Read(const std::string& text) {
    std::ofstream(path_) << text;
    ModelConfig model;
    model.vocab = 100;
    return ReadTokenCases(path_, model, "/my/model", /*most_tokens=*/8);
  }
  void ExpectRefused(const std::string& text, const std::string& words) {
    const absl::Status status = Read(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), path_)) << status;
  }

  const std::string path_ = TestFolder("token_cases") + "/cases.jsonl";
};

constexpr char kGood[] = R"({"segments": [[1, 99], [3], [4, 5]], "question": "?"})";

TEST_F(TokenCasesTest, ReadsLines) {
  const auto cases = Read(absl::StrCat(kGood, "\n\n", R"({"segments": [[0],[0],[0],[0]]})"));
  ASSERT_TRUE(cases.ok()) << cases.status();
  EXPECT_EQ(*cases, (std::vector<TokenCase>{{{1, 99}, {3}, {4, 5}}, {{0}, {0}, {0}, {0}}}));
}

TEST_F(TokenCasesTest, TextsAreAnsweredWithTheCommandThatMakesIds) {
  for (const char* texts : {R"([{"ctxs": [], "question": "?"}])", "[\n  {\n", "  [",
                            R"({"ctxs": [{"text": "a"}], "question": "b", "answers": []})"}) {
    ExpectRefused(texts, "python3 tests/eval/tokenize_cases.py " + path_ +
                             " --folder /my/model > cases.jsonl");
  }
}

TEST_F(TokenCasesTest, RefusesWhatIsNoCase) {
  ExpectRefused("", "no case");
  ExpectRefused("\n \n", "no case");
  ExpectRefused("{", ":1: no {\"segments\"");
  ExpectRefused(absl::StrCat(kGood, "\nx"), ":2: no {\"segments\"");
  ExpectRefused(R"({"segments": [[1], [2]]})", "at least three segments");
  ExpectRefused(R"({"segments": [[1], [], [2]]})", "no list of token ids");
  ExpectRefused(R"({"segments": [[1], 2, [2]]})", "no list of token ids");
  ExpectRefused(R"({"segments": [[1], [100], [2]]})", "token id 100");
  ExpectRefused(R"({"segments": [[1], [-1], [2]]})", "token id -1");
  ExpectRefused(R"({"segments": [[1], [1.5], [2]]})", "token id");
  ExpectRefused(R"({"segments": [[1], ["a"], [2]]})", "token id \"a\"");
  ExpectRefused(R"({"segments": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]})", "9 tokens, but 8 may be");
}

TEST_F(TokenCasesTest, AFileThatIsNotThereIsNamed) {
  const auto cases = ReadTokenCases(path_ + ".none", ModelConfig(), "/my/model", 8);
  EXPECT_EQ(cases.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(cases.status().message(), ".none (No such file")) << cases.status();
}

}  // namespace
}  // namespace tessera
