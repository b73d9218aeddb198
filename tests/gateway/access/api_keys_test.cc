#include "gateway/access/api_keys.h"

#include <sys/stat.h>

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr char kFile[] =
    "# who may use it\n"
    "alice  secret-of-alice 60 1000   # a person\n"
    "\n"
    "\tbob\tsecret-of-bob\r\n"
    "batch-7.x secret-of-batch 0 5";

std::string ErrorOf(const std::string& text) {
  return std::string(ApiKeys::Parse(text).status().message());
}

TEST(ApiKeysTest, ReadsNamesAndLimits) {
  const auto keys = ApiKeys::Parse(kFile);
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 3u);
  EXPECT_EQ(keys->name(0), "alice");
  EXPECT_EQ(keys->limits(0).requests, 60u);
  EXPECT_EQ(keys->limits(0).tokens, 1000u);
  EXPECT_EQ(keys->name(1), "bob");
  EXPECT_EQ(keys->limits(1).requests, 0u);
  EXPECT_EQ(keys->limits(2).requests, 0u);
  EXPECT_EQ(keys->limits(2).tokens, 5u);
}

TEST(ApiKeysTest, FindsOnlyWholeKeys) {
  const auto keys = ApiKeys::Parse(kFile);
  ASSERT_TRUE(keys.ok());
  EXPECT_EQ(keys->Find("Bearer secret-of-alice"), 0u);
  EXPECT_EQ(keys->Find("bearer  secret-of-bob "), 1u);
  EXPECT_EQ(keys->Find("BEARER secret-of-batch"), 2u);
  for (const char* wrong : {"", "Bearer", "Bearer ", "secret-of-alice", "Basic secret-of-alice",
                            "Bearer secret-of-alic", "Bearer secret-of-alice2",
                            "Bearer SECRET-OF-ALICE", "Bearer alice", "Bearer #"}) {
    EXPECT_FALSE(keys->Find(wrong)) << wrong;
  }
}

TEST(ApiKeysTest, ErrorsNameTheLineAndNoKey) {
  const std::string line = "alice secret-of-alice\n";
  for (const char* wrong :
       {"bob", "bob short", "b/b secret-of-bob", "bob secret-of-bob x", "bob secret-of-bob -1",
        "bob secret-of-bob 1 2 3", "bob secret-of-bob 99999999999999999", "bob secret-of-alice",
        "alice secret-of-bob", "bob secret\x01of-bob"}) {
    const std::string error = ErrorOf(line + wrong);
    EXPECT_TRUE(absl::StrContains(error, "line 2")) << wrong << ": " << error;
    EXPECT_FALSE(absl::StrContains(error, "secret")) << error;
  }
  EXPECT_TRUE(absl::StrContains(ErrorOf("# nobody\n\n"), "no key"));
  std::string many;
  for (size_t i = 0; i <= ApiKeys::kMaxKeys; ++i)
    absl::StrAppend(&many, "n", i, " key-number-", i, "\n");
  EXPECT_TRUE(absl::StrContains(ErrorOf(many), "more than"));
}

TEST(ApiKeysTest, LoadWarnsOfAFileThatOthersMayRead) {
  const std::string path = testing::TempDir() + "/api_keys";
  std::ofstream(path) << kFile;
  for (const bool open : {false, true}) {
    ASSERT_EQ(chmod(path.c_str(), open ? 0644 : 0600), 0);
    testing::internal::CaptureStderr();
    const auto keys = ApiKeys::Load(path);
    const std::string log = testing::internal::GetCapturedStderr();
    ASSERT_TRUE(keys.ok()) << keys.status();
    EXPECT_EQ(keys->size(), 3u);
    EXPECT_EQ(absl::StrContains(log, "event=api_keys_readable"), open) << log;
    EXPECT_FALSE(absl::StrContains(log, "secret"));
  }
  EXPECT_FALSE(ApiKeys::Load(path + ".absent").ok());
}

}  // namespace
}  // namespace tessera
