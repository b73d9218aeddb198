#include "base/files.h"

#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

std::string Write(const std::string& name, const std::string& text) {
  const std::string path = std::string(std::getenv("TEST_TMPDIR")) + "/" + name;
  std::ofstream(path) << text;
  return path;
}

TEST(FilesTest, ReadsWhatIsThere) {
  EXPECT_EQ(*ReadSmallFile(Write("whole", "two\nlines\n"), "test"), "two\nlines\n");
}

TEST(FilesTest, NamesWhatItCannotRead) {
  const absl::Status absent = ReadSmallFile("/does/not/exist", "CA").status();
  EXPECT_EQ(absent.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(absent.message(), "CA file /does/not/exist")) << absent;
  EXPECT_FALSE(ReadSmallFile(Write("empty", ""), "test").ok());
  EXPECT_FALSE(ReadSmallFile(Write("large", std::string((4 << 20) + 1, 'x')), "test").ok());
  EXPECT_TRUE(ReadSmallFile(Write("just", std::string(4 << 20, 'x')), "test").ok());
}

TEST(FilesTest, TheTokenIsTheFirstLine) {
  EXPECT_EQ(*ReadTokenFile(Write("token", " secret \r\nnot this\n")), "secret");
  EXPECT_EQ(*ReadTokenFile(Write("token", "secret")), "secret");
  for (const std::string bad : {"\nsecret\n", "   \n", "sec\tret\n", "s\xc3\xa9" "cret\n"}) {
    EXPECT_FALSE(ReadTokenFile(Write("token", bad)).ok()) << bad;
  }
  EXPECT_FALSE(ReadTokenFile(Write("token", std::string(5000, 'x'))).ok());
}

}  // namespace
}  // namespace tessera
