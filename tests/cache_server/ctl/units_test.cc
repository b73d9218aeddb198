#include "cache_server/ctl/units.h"

#include <gtest/gtest.h>

#include <sstream>

#include "cache_server/ctl/table.h"

namespace tessera::ctl {
namespace {

TEST(UnitsTest, BytesAreShortAndExactBelowOneKiB) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1024), "1.0 KiB");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(FormatBytes(uint64_t{4} << 30), "4.0 GiB");
  EXPECT_EQ(FormatBytes(~uint64_t{0}), "16777216.0 TiB");
}

TEST(UnitsTest, AgesHaveTheTwoLargestUnits) {
  EXPECT_EQ(FormatAge(absl::Seconds(-1)), "0s");
  EXPECT_EQ(FormatAge(absl::Milliseconds(999)), "0s");
  EXPECT_EQ(FormatAge(absl::Seconds(59)), "59s");
  EXPECT_EQ(FormatAge(absl::Seconds(185)), "3m 5s");
  EXPECT_EQ(FormatAge(absl::Hours(2) + absl::Minutes(3)), "2h 3m");
  EXPECT_EQ(FormatAge(absl::Hours(98)), "4d 2h");
}

TEST(UnitsTest, SizesAreRead) {
  ByteSize size;
  std::string error;
  for (const auto& [text, bytes] : {std::pair{"65536", 65536},
                                    {"0", 0},
                                    {"3B", 3},
                                    {"512KiB", 512 << 10},
                                    {"1MiB", 1 << 20},
                                    {"2M", 2 << 20}}) {
    EXPECT_TRUE(AbslParseFlag(text, &size, &error)) << text;
    EXPECT_EQ(size.bytes, static_cast<uint64_t>(bytes)) << text;
  }
  for (const char* text : {"", "MiB", "-1", "1.5MiB", "big", "1TiB", "1025GiB"}) {
    error.clear();
    EXPECT_FALSE(AbslParseFlag(text, &size, &error)) << text;
    EXPECT_NE(error, "") << text;
  }
}

TEST(UnitsTest, WrittenSizesAreReadBack) {
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{1000}, uint64_t{1} << 20, uint64_t{3} << 30}) {
    ByteSize size;
    std::string error;
    ASSERT_TRUE(AbslParseFlag(AbslUnparseFlag({bytes}), &size, &error));
    EXPECT_EQ(size.bytes, bytes);
  }
  EXPECT_EQ(AbslUnparseFlag({1 << 20}), "1MiB");
}

TEST(TableTest, ColumnsAreAlignedAcrossPages) {
  Table table({{"KEY"}, {"SIZE", true, 6}, {"TENANT"}});
  table.AddRow({"abcdef", "1 B", "-"});
  std::ostringstream out;
  table.Print(out);
  table.AddRow({"ab", "12 B", "me"});
  table.Print(out);
  EXPECT_EQ(out.str(),
            "KEY       SIZE  TENANT\n"
            "abcdef     1 B  -\n"
            "ab        12 B  me\n");
}

TEST(TableTest, AnEmptyTableHasItsTitles) {
  Table table({{"KEY"}, {"SIZE", true}});
  std::ostringstream out;
  table.Print(out);
  EXPECT_EQ(out.str(), "KEY  SIZE\n");
}

}  // namespace
}  // namespace tessera::ctl
