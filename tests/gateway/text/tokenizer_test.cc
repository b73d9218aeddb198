#include "gateway/text/tokenizer.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway/text/tiny_tokenizer.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Ids = std::vector<uint32_t>;

constexpr auto kPlain = SpecialTokens::kPlainText;
constexpr auto kRecognised = SpecialTokens::kRecognised;

Ids Encode(const Tokenizer& tokenizer, std::string_view text, SpecialTokens special = kPlain) {
  auto ids = tokenizer.Encode(text, special);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : Ids{};
}

boost::json::object WithPreTokenizer(boost::json::value pre_tokenizer) {
  boost::json::object json = TinyTokenizerJson();
  json["pre_tokenizer"] = std::move(pre_tokenizer);
  return json;
}

boost::json::object Step(const char* type, boost::json::object fields) {
  fields["type"] = type;
  return fields;
}

boost::json::object Sequence(boost::json::array steps) {
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

const boost::json::object kBytes = {
    {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};

TEST(TokenizerTest, MergesInOrderOfRank) {
  const auto tokenizer = TinyTokenizer();
  EXPECT_THAT(Encode(*tokenizer, "hello"), ElementsAre(kHello));
  EXPECT_THAT(Encode(*tokenizer, "hell"), ElementsAre(kHell));
  // "h e" comes before "l l": hel l would be another cut.
  EXPECT_THAT(Encode(*tokenizer, "helo"), ElementsAre(kHe, 'l', 'o'));
  EXPECT_THAT(Encode(*tokenizer, "lllll"), ElementsAre(kLl, kLl, 'l'));
  EXPECT_THAT(Encode(*tokenizer, "hello world"), ElementsAre(kHello, kSpaceW, 'o', 'r', 'l', 'd'));
  EXPECT_THAT(Encode(*tokenizer, ""), IsEmpty());
  EXPECT_THAT(Encode(*tokenizer, "é"), ElementsAre(0xc3, 0xa9));
  EXPECT_EQ(tokenizer->vocab_size(), kTinySize);
}

TEST(TokenizerTest, LongAndShortWordsMergeAlike) {
  const auto tokenizer = TinyTokenizer();
  std::mt19937 random(1);
  for (int turn = 0; turn < 200; ++turn) {
    // 40 letters take the scan, the same ones inside a longer word the heap. Words of "helo"
    // letters merge only inside of "hello", so they can be cut before every h.
    std::string word;
    for (int i = 0; i < 40; ++i) word += "hhelllo"[random() % 7];
    Ids parts;
    std::string filler;
    for (int i = 0; i < 3; ++i) {
      const Ids ids = Encode(*tokenizer, "h" + word + "x");
      parts.insert(parts.end(), ids.begin(), ids.end());
      filler += "h" + word + "x";
    }
    EXPECT_EQ(Encode(*tokenizer, filler), parts) << filler;
  }
}

TEST(TokenizerTest, MegabyteWithoutSpaces) {
  const auto tokenizer = TinyTokenizer();
  std::string text;
  while (text.size() < 1'000'000) text += "hello";
  EXPECT_EQ(Encode(*tokenizer, text).size(), 200'000u);
}

TEST(TokenizerTest, SpecialTokensOnlyWhereRecognised) {
  const auto tokenizer = TinyTokenizer();
  EXPECT_THAT(Encode(*tokenizer, "<|start|>hello<|end|>", kRecognised),
              ElementsAre(kStart, kHello, kEnd));
  const Ids plain = Encode(*tokenizer, "<|start|>");
  EXPECT_EQ(plain.size(), 9u);
  EXPECT_EQ(tokenizer->Decode(plain, false), "<|start|>");
  // Added but not special: always found, as in Hugging Face's library.
  EXPECT_THAT(Encode(*tokenizer, "<think>"), ElementsAre(kThink));
}

TEST(TokenizerTest, RunsJoinWordsButNotSpecialTokens) {
  const auto tokenizer = TinyTokenizer();
  const std::vector<TextRun> words = {{"he", kRecognised}, {"ll", kPlain}, {"o", kRecognised}};
  EXPECT_THAT(*tokenizer->EncodeRuns(words), ElementsAre(kHello));
  const std::vector<TextRun> halves = {{"<|st", kRecognised}, {"art|>", kPlain}};
  EXPECT_EQ(tokenizer->EncodeRuns(halves)->size(), 9u);
  const std::vector<TextRun> whole = {{"<|st", kRecognised}, {"art|>", kRecognised}};
  EXPECT_THAT(*tokenizer->EncodeRuns(whole), ElementsAre(kStart));
  // What a user writes cannot hide the template's token that follows.
  const std::vector<TextRun> hidden = {{"<|start", kPlain}, {"<|end|>", kRecognised}};
  EXPECT_EQ(tokenizer->EncodeRuns(hidden)->back(), kEnd);
}

TEST(TokenizerTest, InvalidUtf8NamesTheByte) {
  const auto tokenizer = TinyTokenizer();
  for (const std::string_view bad : {"ab\xff", "ab\xc3", "ab\xed\xa0\x80", "ab\xc0\x80"}) {
    const auto ids = tokenizer->Encode(bad, kPlain);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr("byte 2"));
  }
}

TEST(TokenizerTest, BytesAndIds) {
  const auto tokenizer = TinyTokenizer();
  EXPECT_EQ(tokenizer->TokenBytes(kSpaceW), " w");
  EXPECT_EQ(tokenizer->TokenBytes(0xc3), "\xc3");
  EXPECT_EQ(tokenizer->TokenBytes(kStart), "<|start|>");
  EXPECT_EQ(tokenizer->TokenBytes(9999), "");
  EXPECT_EQ(tokenizer->TokenId("<|end|>"), kEnd);
  EXPECT_EQ(tokenizer->TokenId(" w"), kSpaceW);
  EXPECT_EQ(tokenizer->TokenId("no such token"), std::nullopt);
  EXPECT_TRUE(tokenizer->IsSpecial(kEnd));
  EXPECT_FALSE(tokenizer->IsSpecial(kThink));
  EXPECT_FALSE(tokenizer->IsSpecial('a'));
  EXPECT_EQ(tokenizer->Decode(std::vector<uint32_t>{kStart, kHello, 0xc3, kEnd}, true),
            "hello\xef\xbf\xbd");
}

TEST(TokenizerTest, DigitsAndSplits) {
  auto digits = LoadJson(WithPreTokenizer(
      Sequence({Step("Digits", {{"individual_digits", true}}),
                {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}})));
  ASSERT_TRUE(digits.ok()) << digits.status();
  EXPECT_THAT(Encode(**digits, "he12"), ElementsAre(kHe, '1', '2'));
  const auto split = [](const char* pattern, const char* behavior, bool invert) {
    auto tokenizer = LoadJson(WithPreTokenizer(Sequence(
        {Step("Split",
              {{"pattern", {{"Regex", pattern}}}, {"behavior", behavior}, {"invert", invert}}),
         kBytes})));
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *std::move(tokenizer);
  };
  EXPECT_THAT(Encode(*split("l", "Isolated", false), "hello"), ElementsAre(kHe, 'l', 'l', 'o'));
  EXPECT_THAT(Encode(*split("l", "Removed", false), "hello"), ElementsAre(kHe, 'o'));
  EXPECT_THAT(Encode(*split("l", "Removed", true), "hello"), ElementsAre('l', 'l'));
  EXPECT_THAT(Encode(*split("\\s+", "Isolated", false), "he\u180ehe"),
              ElementsAre(kHe, 0xe1, 0xa0, 0x8e, kHe));
}

TEST(TokenizerTest, PrefixSpace) {
  auto tokenizer = LoadJson(WithPreTokenizer(
      boost::json::object{{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}}));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Encode(**tokenizer, "w"), ElementsAre(kSpaceW));
  EXPECT_THAT(Encode(**tokenizer, " w"), ElementsAre(kSpaceW));
}

TEST(TokenizerTest, NormalizationFormC) {
  boost::json::object json = TinyTokenizerJson();
  json["normalizer"] = boost::json::object{{"type", "NFC"}};
  auto tokenizer = LoadJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Encode(**tokenizer, "e\u0301"), ElementsAre(0xc3, 0xa9));
  EXPECT_THAT(Encode(**tokenizer, "\u212b"), ElementsAre(0xc3, 0x85));
}

TEST(TokenizerTest, MergesAsPairsAndIgnoredMerges) {
  boost::json::object json = TinyTokenizerJson();
  boost::json::object& model = json["model"].get_object();
  model["merges"] = boost::json::array{boost::json::array{"h", "e"}, boost::json::array{"l", "l"}};
  auto tokenizer = LoadJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Encode(**tokenizer, "hello"), ElementsAre(kHe, kLl, 'o'));
  json["model"].get_object()["ignore_merges"] = true;
  tokenizer = LoadJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Encode(**tokenizer, "hello"), ElementsAre(kHello));
  EXPECT_THAT(Encode(**tokenizer, "hellol"), ElementsAre(kHe, kLl, 'o', 'l'));
}

TEST(TokenizerTest, AddedTokenFlags) {
  boost::json::object json = TinyTokenizerJson();
  json["added_tokens"] = boost::json::array{
      boost::json::object{{"id", 300}, {"content", "[A]"}, {"lstrip", true}, {"normalized", false}},
      boost::json::object{{"id", 301}, {"content", "[B]"}, {"rstrip", true}, {"normalized", true}},
      boost::json::object{{"id", 302}, {"content", "ox"}, {"single_word", true}},
      boost::json::object{{"id", 303}, {"content", "[A][B]"}, {"normalized", false}}};
  auto tokenizer = LoadJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Encode(**tokenizer, "a  [A]b"), ElementsAre('a', 300, 'b'));
  EXPECT_THAT(Encode(**tokenizer, "a[B] \n b"), ElementsAre('a', 301, 'b'));
  EXPECT_THAT(Encode(**tokenizer, "ox box ox"), ElementsAre(302, ' ', 'b', 'o', 'x', ' ', 302));
  EXPECT_THAT(Encode(**tokenizer, "[A][B]"), ElementsAre(303));
  EXPECT_EQ((*tokenizer)->vocab_size(), 304u);
}

void ExpectRefused(const boost::json::object& json, const char* name) {
  const auto tokenizer = LoadJson(json);
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kUnimplemented) << tokenizer.status();
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(name));
}

TEST(TokenizerTest, RefusesWhatItDoesNotKnowByName) {
  const auto with = [](const char* key, boost::json::value value) {
    boost::json::object json = TinyTokenizerJson();
    json[key] = std::move(value);
    return json;
  };
  ExpectRefused(with("normalizer", {{"type", "Lowercase"}}), "Lowercase");
  ExpectRefused(with("pre_tokenizer", {{"type", "Metaspace"}}), "Metaspace");
  ExpectRefused(with("pre_tokenizer", nullptr), "pre_tokenizer");
  ExpectRefused(with("decoder", {{"type", "WordPiece"}}), "WordPiece");
  ExpectRefused(with("post_processor", {{"type", "BertProcessing"}}), "BertProcessing");
  ExpectRefused(with("model", {{"type", "Unigram"}}), "Unigram");
  ExpectRefused(WithPreTokenizer(Sequence(
                    {Step("Split", {{"pattern", {{"Regex", "a"}}}, {"behavior", "MergedWithNext"}}),
                     kBytes})),
                "MergedWithNext");
  ExpectRefused(
      WithPreTokenizer(Sequence(
          {Step("Split", {{"pattern", {{"Regex", "\\h"}}}, {"behavior", "Isolated"}}), kBytes})),
      "\\h");
  boost::json::object json = TinyTokenizerJson();
  json["model"].get_object()["byte_fallback"] = true;
  ExpectRefused(json, "byte_fallback");
}

TEST(TokenizerTest, DamagedFiles) {
  EXPECT_EQ(LoadTokenizer("/nowhere").status().code(), absl::StatusCode::kNotFound);
  const auto load = [](const char* text) {
    return LoadTokenizer(MakeModelFolder({{"tokenizer.json", text}})).status().code();
  };
  EXPECT_EQ(load("{"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(load("[]"), absl::StatusCode::kInvalidArgument);
  boost::json::object json = TinyTokenizerJson();
  json["model"].get_object()["merges"].get_array().emplace_back("x y");
  EXPECT_EQ(LoadJson(json).status().code(), absl::StatusCode::kInvalidArgument);
  json = TinyTokenizerJson();
  json["model"].get_object()["vocab"].get_object()["he"] = kLl;
  EXPECT_EQ(LoadJson(json).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(LoadTokenizer(MakeModelFolder({{"tokenizer.model", "no model"}})).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera
