#include "gateway/text/nfc.h"

#include <random>
#include <string>

#include "gateway/text/utf8.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(NfcTest, SurelyMeansThatNothingChanges) {
  std::mt19937 rng(3);
  // Where marks, letters that are composed of others, and Hangul letters are.
  constexpr char32_t kRanges[][2] = {
      {0x20, 0x7e},     {0xc0, 0x24f},    {0x300, 0x36f},   {0x590, 0x6ff},    {0x900, 0xdff},
      {0xe00, 0x109f},  {0x1100, 0x11ff}, {0x1dc0, 0x1fff}, {0x2000, 0x2fff},  {0x3040, 0x30ff},
      {0x4e00, 0xac20}, {0xf900, 0xffff}, {0, 0xd7ff},      {0x10000, 0x30000}};
  int sure = 0;
  for (int i = 0; i < 200000; ++i) {
    std::string text;
    const auto& one = kRanges[rng() % std::size(kRanges)];
    for (size_t size = rng() % 12; size > 0; --size) {
      const auto& [first, last] = rng() % 3 == 0 ? kRanges[rng() % std::size(kRanges)] : one;
      const auto c = static_cast<char32_t>(first + rng() % (last - first + 1));
      if (c < 0xd800 || c >= 0xe000) AppendUtf8(c, &text);
    }
    if (!IsSurelyNfc(text)) continue;
    ++sure;
    ASSERT_EQ(Nfc(text), text) << testing::PrintToString(text);
  }
  EXPECT_GT(sure, 20000);
}

TEST(NfcTest, OrdinaryTextIsSure) {
  for (const char* text :
       {"", "plain", "na\u00efve caf\u00e9", "大语言模型、缓存", "人工知能は、データ", "인공지능은",
        "ปัญญาประดิษฐ์เรียนรู้", "Машинное обучение", "\u0645\u064e\u0631\u062d\u064e\u0628\u064b\u0627",
        "किताब उपयोग", "🤖🔥"}) {
    EXPECT_TRUE(IsSurelyNfc(text)) << text;
  }
  // Two marks in the wrong order; marks and letters that join the letter before; a letter that
  // stands for another.
  for (const char* text :
       {"\u0e01\u0e48\u0e38", "e\u0301", "\u09c7\u09be", "\u1100\u1161", "\u212b"}) {
    EXPECT_FALSE(IsSurelyNfc(text)) << text;
    EXPECT_NE(Nfc(text), text);
  }
}

}  // namespace
}  // namespace tessera
