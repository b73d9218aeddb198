// The matchers by hand against PCRE2 with the same pattern.
#include "gateway/text/known_pattern.h"

#include <random>
#include <string>

#include "gateway/text/code_point_class.h"
#include "gateway/text/pattern.h"
#include "gateway/text/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using Words = std::vector<std::string_view>;
using testing::ElementsAre;

constexpr KnownPattern kAll[] = {KnownPattern::kGpt2, KnownPattern::kLlama3, KnownPattern::kQwen2};

Words Cut(KnownPattern known, std::string_view text) {
  Words words;
  CutWords(known, text, &words);
  return words;
}

Words CutByPcre2(const Pattern& pattern, std::string_view text) {
  Words words;
  PatternScan scan(pattern);
  for (PatternScan::Match match = {0, 0}; match.end < text.size();) {
    const size_t from = match.end;
    const auto found = scan.Next(text, from, &match);
    // These patterns match everywhere.
    if (!found.ok() || !*found || match.begin != from || match.end == from) return {};
    words.push_back(text.substr(match.begin, match.end - match.begin));
  }
  return words;
}

// Letters that the patterns name, in both cases, and neighbours of all kinds.
std::string RandomText(std::mt19937& rng) {
  constexpr std::u32string_view kNamed = U"'''''stmdrevlSTMDREVL\u017f   \n\n\r\t.,-/5\u0663\u4e00";
  constexpr std::u32string_view kOthers =
      U"\u00a0\u2003\u3000\u0085\u180e\u200b\u0301\u00bd\u2167"
      U"\u00e9\u01c5\u02b0\u0e01\U0001f600\U0001d7d8\U00020000";
  std::string text;
  for (size_t size = rng() % 24; size > 0; --size) {
    const uint32_t kind = rng() % 8;
    char32_t c = kNamed[rng() % kNamed.size()];
    if (kind == 6) c = kOthers[rng() % kOthers.size()];
    if (kind == 7) c = static_cast<char32_t>(rng() % (rng() % 2 == 0 ? 0x3000 : 0x110000));
    if (c >= 0xd800 && c < 0xe000) continue;
    AppendUtf8(c, &text);
  }
  return text;
}

TEST(KnownPatternTest, CutsAsPcre2OnRandomText) {
  std::mt19937 rng(1);
  for (const KnownPattern known : kAll) {
    const auto pattern = Pattern::Compile(RegexOf(known));
    ASSERT_TRUE(pattern.ok()) << pattern.status();
    for (int i = 0; i < 60000; ++i) {
      const std::string text = RandomText(rng);
      ASSERT_EQ(Cut(known, text), CutByPcre2(*pattern, text))
          << RegexOf(known) << " on " << testing::PrintToString(text);
    }
  }
}

TEST(KnownPatternTest, ClassesOfAllCodePointsAreThosePcre2Has) {
  const auto pattern = Pattern::Compile("(?:\\p{L}|\\p{N}|\\s)\\z");
  ASSERT_TRUE(pattern.ok()) << pattern.status();
  const auto letter = Pattern::Compile("\\A\\p{L}"), number = Pattern::Compile("\\A\\p{N}");
  PatternScan any(*pattern), letters(*letter), numbers(*number);
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    std::string text;
    AppendUtf8(c, &text);
    PatternScan::Match match;
    CodePointClass expected = CodePointClass::kOther;
    if (*any.Next(text, 0, &match)) {
      expected = *letters.Next(text, 0, &match)   ? CodePointClass::kLetter
                 : *numbers.Next(text, 0, &match) ? CodePointClass::kNumber
                                                  : CodePointClass::kSpace;
    }
    ASSERT_EQ(CodePointClasses::Get().Of(c), expected) << static_cast<uint32_t>(c);
  }
}

TEST(KnownPatternTest, Examples) {
  EXPECT_THAT(Cut(KnownPattern::kGpt2, "don't DON'T 12 a  b \n\n"),
              ElementsAre("don", "'t", " DON", "'", "T", " 12", " a", " ", " b", " \n\n"));
  EXPECT_THAT(Cut(KnownPattern::kLlama3, "DON'T'\u017f 1234 (x)..\n\n  y  \n z"),
              ElementsAre("DON", "'T", "'\u017f", " ", "123", "4", " (", "x", ")..\n\n", " ", " y",
                          "  \n", " z"));
  EXPECT_THAT(Cut(KnownPattern::kQwen2, "123"), ElementsAre("1", "2", "3"));
  EXPECT_THAT(Cut(KnownPattern::kQwen2, ""), ElementsAre());
}

TEST(KnownPatternTest, OnlyTheExactTextIsKnown) {
  for (const KnownPattern known : kAll) EXPECT_EQ(FindKnownPattern(RegexOf(known)), known);
  EXPECT_EQ(FindKnownPattern(""), std::nullopt);
  EXPECT_EQ(FindKnownPattern(std::string(RegexOf(KnownPattern::kGpt2)) + "|x"), std::nullopt);
}

}  // namespace
}  // namespace tessera
