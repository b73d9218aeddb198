#include "cache_server/ctl/command_line.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/time/time.h"

ABSL_FLAG(bool, loud, false, "");
ABSL_FLAG(absl::Duration, ttl, absl::Hours(1), "");
ABSL_FLAG(std::string, name, "", "");
ABSL_FLAG(std::string, note, "", "");  // starts with "no"

namespace tessera::ctl {
namespace {

using Flags = std::vector<std::pair<std::string, std::string>>;

TEST(CommandLineTest, AllFormsOfFlagsAndWords) {
  const auto line = SplitCommandLine({"pin", "--ttl=2h", "-", "--name", "x=y", "--loud", "aa",
                                      "--note", "n", "--noloud", "--", "--bb", "-h"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->words, (std::vector<std::string>{"pin", "-", "aa", "--bb", "-h"}));
  EXPECT_EQ(
      line->flags,
      (Flags{{"ttl", "2h"}, {"name", "x=y"}, {"loud", "true"}, {"note", "n"}, {"loud", "false"}}));
  EXPECT_FALSE(line->help);
  EXPECT_TRUE(line->Has("ttl"));
  EXPECT_FALSE(line->Has("nothing"));
}

TEST(CommandLineTest, HelpIsAFlagOfItsOwn) {
  for (const char* word : {"--help", "-h"}) {
    const auto line = SplitCommandLine({"ls", word});
    ASSERT_TRUE(line.ok());
    EXPECT_TRUE(line->help);
  }
}

TEST(CommandLineTest, UnknownFlagsAndMissingValuesAreRefusedByName) {
  for (const char* word : {"--typo", "--typo=1", "--nottl", "--noloud=1", "-x"}) {
    const auto line = SplitCommandLine({"ls", word});
    ASSERT_TRUE(absl::IsInvalidArgument(line.status())) << word;
    EXPECT_NE(line.status().message().find(word), std::string::npos) << line.status();
  }
  const auto line = SplitCommandLine({"pin", "--ttl"});
  ASSERT_TRUE(absl::IsInvalidArgument(line.status()));
  EXPECT_NE(line.status().message().find("--ttl=VALUE"), std::string::npos) << line.status();
}

TEST(CommandLineTest, FlagsGetTheirValues) {
  absl::FlagSaver saver;
  const auto line = SplitCommandLine({"--ttl=90s", "--loud"});
  ASSERT_TRUE(line.ok());
  EXPECT_TRUE(SetFlags(*line, {"ttl", "loud"}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_ttl), absl::Seconds(90));
  EXPECT_TRUE(absl::GetFlag(FLAGS_loud));
}

TEST(CommandLineTest, FlagsOfOtherCommandsAndBadValuesAreRefused) {
  absl::FlagSaver saver;
  const auto other = SplitCommandLine({"--loud"});
  ASSERT_TRUE(other.ok());
  const absl::Status not_allowed = SetFlags(*other, {"ttl", "name"});
  EXPECT_TRUE(absl::IsInvalidArgument(not_allowed));
  EXPECT_EQ(not_allowed.message(), "--loud is no flag of this command; it has --ttl, --name");

  const auto bad = SplitCommandLine({"--ttl=soon"});
  ASSERT_TRUE(bad.ok());
  const absl::Status not_valid = SetFlags(*bad, {"ttl"});
  EXPECT_TRUE(absl::IsInvalidArgument(not_valid));
  EXPECT_NE(not_valid.message().find("--ttl=soon is not valid"), std::string::npos) << not_valid;
}

}  // namespace
}  // namespace tessera::ctl
