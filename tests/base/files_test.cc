#include "base/files.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
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

int64_t FilesIn(const std::string& folder) {
  return std::distance(std::filesystem::directory_iterator(folder),
                       std::filesystem::directory_iterator());
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
  for (const std::string bad : {"\nsecret\n", "   \n", "sec\tret\n",
                                "s\xc3\xa9"
                                "cret\n"}) {
    EXPECT_FALSE(ReadTokenFile(Write("token", bad)).ok()) << bad;
  }
  EXPECT_FALSE(ReadTokenFile(Write("token", std::string(5000, 'x'))).ok());
}

TEST(FilesTest, WritesAWholeFileInPlaceOfAnother) {
  const std::string folder = std::string(std::getenv("TEST_TMPDIR")) + "/written";
  std::filesystem::create_directory(folder);
  for (const std::string& bytes :
       {std::string("first"), std::string(3 << 20, 'x'), std::string("z")}) {
    ASSERT_TRUE(WriteSmallFile(folder + "/file", bytes).ok());
    EXPECT_EQ(*ReadSmallFile(folder + "/file", "test"), bytes);
  }
  EXPECT_EQ(FilesIn(folder), 1);
}

TEST(FilesTest, WhatCannotBeWrittenLeavesTheOldFile) {
  const std::string folder = Write("no_folder", "old");  // a file is no folder, for root neither
  const absl::Status status = WriteSmallFile(folder + "/file", "new");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(status.message(), folder + "/file (Not a directory)")) << status;
  EXPECT_EQ(*ReadSmallFile(folder, "test"), "old");
  // The bytes are written and the rename fails: what was written goes again.
  const std::string taken = std::string(std::getenv("TEST_TMPDIR")) + "/taken";
  std::filesystem::create_directories(taken + "/file/inside");
  EXPECT_FALSE(WriteSmallFile(taken + "/file", "new").ok());
  EXPECT_EQ(FilesIn(taken), 1);
}

}  // namespace
}  // namespace tessera
