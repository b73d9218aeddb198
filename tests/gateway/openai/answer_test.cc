#include "gateway/openai/answer.h"

#include <random>
#include <utility>

#include "gateway/text/utf8.h"
#include "gtest/gtest.h"
#include "tests/gateway/openai/table_tokenizer.h"

namespace tessera::openai {
namespace {

namespace v1 = worker::v1;

v1::Token TokenOf(uint32_t id) {
  v1::Token token;
  token.set_id(id);
  token.set_logprob(-0.5f * static_cast<float>(id));
  return token;
}

// Text and tokens of several deltas.
struct Total {
  std::string text;
  std::vector<uint32_t> ids;

  void Add(const AnswerDelta& delta) {
    text += delta.text;
    for (const ScoredToken& token : delta.tokens) ids.push_back(token.id);
  }
};

// All tokens of the table in order, and then the end.
Total FeedAll(Answer* answer, size_t count, v1::Finished::Reason reason = v1::Finished::LENGTH) {
  Total total;
  for (uint32_t id = 0; id < count; ++id) total.Add(answer->Feed(TokenOf(id)));
  total.Add(answer->Finish(reason));
  return total;
}

std::vector<uint32_t> FirstIds(size_t count) {
  std::vector<uint32_t> ids;
  for (uint32_t id = 0; id < count; ++id) ids.push_back(id);
  return ids;
}

// What tokens 0 to n-1 of `pieces` must look like after each of them: text never ends within a code
// point, a token comes out with the last of its text and not before.
void CheckSplit(const std::vector<std::string>& pieces, const std::string& text) {
  const TableTokenizer tokenizer(pieces);
  AnswerOptions options;
  options.tokenizer = &tokenizer;
  options.keep_tokens = true;
  Answer answer(&options, 100);
  Total total;
  size_t fed = 0;
  size_t given = 0;
  for (uint32_t id = 0; id < pieces.size(); ++id) {
    const AnswerDelta delta = answer.Feed(TokenOf(id));
    fed += pieces[id].size();
    total.Add(delta);
    ASSERT_EQ(FindInvalidUtf8(delta.text), std::string_view::npos);
    ASSERT_EQ(total.text, text.substr(0, total.text.size()));
    ASSERT_LT(fed - total.text.size(), 4u);
    ASSERT_TRUE(!delta.text.empty() || delta.tokens.empty());
    for (const ScoredToken& token : delta.tokens) {
      std::string before = text.substr(0, given);
      while (FindInvalidUtf8(before) != std::string_view::npos) before.pop_back();
      ASSERT_EQ(token.offset, 100 + CountCodePoints(before));
      given += pieces[token.id].size();
    }
    ASSERT_LE(given, total.text.size());
    const bool next_is_out = !delta.text.empty() && total.ids.size() <= id &&
                             given + pieces[total.ids.size()].size() <= total.text.size();
    ASSERT_FALSE(next_is_out);
  }
  total.Add(answer.Finish(v1::Finished::LENGTH));
  ASSERT_EQ(total.text, text);
  ASSERT_EQ(total.ids, FirstIds(pieces.size()));
}

TEST(AnswerTest, NoCutOfTheTokensSplitsACodePoint) {
  // A letter of each length from one byte to four; a flag, which is two of four; a joiner.
  for (const std::string text : {"a🇩🇪日é", "👩\u200d👧 x", "ü漢😀字!"}) {
    ASSERT_LE(text.size(), 14u);
    const uint32_t splits = 1u << (text.size() - 1);
    for (uint32_t split = 0; split < splits; ++split) {
      std::vector<std::string> pieces(1);
      for (size_t i = 0; i < text.size(); ++i) {
        pieces.back().push_back(text[i]);
        if (i + 1 < text.size() && (split >> i & 1) != 0) pieces.emplace_back();
      }
      CheckSplit(pieces, text);
      if (HasFatalFailure()) return;
    }
  }
}

// Where the first stop string ends, by looking at every end in turn; npos: nowhere.
std::pair<size_t, std::string> FirstStop(const std::string& text, size_t after,
                                         const std::vector<std::string>& stops) {
  for (size_t end = after + 1; end <= text.size(); ++end) {
    std::string best;
    for (const std::string& stop : stops) {
      if (end >= stop.size() && text.substr(end - stop.size(), stop.size()) == stop &&
          stop.size() > best.size()) {
        best = stop;
      }
    }
    if (!best.empty()) return {end, best};
  }
  return {std::string::npos, ""};
}

TEST(AnswerTest, StopsEqualASearchOfTheWholeText) {
  std::mt19937 random(11);
  int stopped = 0;
  for (int turn = 0; turn < 20000; ++turn) {
    const auto word = [&](size_t longest) {
      std::string letters;
      for (size_t i = 1 + random() % longest; i > 0; --i) {
        letters += random() % 5 == 0 ? "é" : std::string(1, static_cast<char>('a' + random() % 2));
      }
      return letters;
    };
    std::vector<std::string> pieces;
    for (size_t i = 1 + random() % 8; i > 0; --i) pieces.push_back(word(3));
    AnswerOptions options;
    const TableTokenizer tokenizer(pieces);
    options.tokenizer = &tokenizer;
    options.keep_tokens = true;
    options.stop = {word(3), word(4)};
    options.include_stop = random() % 2 == 0;
    options.min_tokens = random() % 4;

    std::string text;
    size_t after = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      text += pieces[i];
      if (i < options.min_tokens) after = text.size();
    }
    const auto [end, stop] = FirstStop(text, after, options.stop);
    Answer answer(&options, 0);
    const Total total = FeedAll(&answer, pieces.size());
    if (end == std::string::npos) {
      ASSERT_EQ(total.text, text);
      ASSERT_EQ(answer.finish_reason(), "length");
      ASSERT_FALSE(answer.stop_string().has_value());
    } else {
      ++stopped;
      ASSERT_EQ(total.text, text.substr(0, options.include_stop ? end : end - stop.size()));
      ASSERT_EQ(answer.finish_reason(), "stop");
      ASSERT_EQ(answer.stop_string(), stop);
    }
    ASSERT_EQ(total.ids, FirstIds(answer.token_count()));
  }
  EXPECT_GT(stopped, 5000);
}

TEST(AnswerTest, HeldTextCarriesItsTokensLater) {
  const TableTokenizer tokenizer({"ab", "S", "T", "x", "y"});
  AnswerOptions options;
  options.tokenizer = &tokenizer;
  options.stop = {"STOP"};
  options.keep_tokens = true;
  Answer answer(&options, 0);
  EXPECT_EQ(answer.Feed(TokenOf(0)).tokens.size(), 1u);
  EXPECT_TRUE(answer.Feed(TokenOf(1)).empty());
  EXPECT_TRUE(answer.Feed(TokenOf(2)).empty());
  const AnswerDelta delta = answer.Feed(TokenOf(3));
  EXPECT_EQ(delta.text, "STx");
  ASSERT_EQ(delta.tokens.size(), 3u);
  EXPECT_EQ(delta.tokens[1].id, 2u);
  EXPECT_EQ(delta.tokens[1].logprob, -1.0f);
  EXPECT_EQ(delta.tokens[1].offset, 3u);
}

TEST(AnswerTest, TokensWithoutTextRideWithTheNext) {
  const TableTokenizer tokenizer({"a", "<special>", "b", "<end>"}, {1, 3});
  AnswerOptions options;
  options.tokenizer = &tokenizer;
  options.keep_tokens = true;
  options.eos_token_ids = {3};
  Answer answer(&options, 0);
  EXPECT_EQ(answer.Feed(TokenOf(0)).tokens.size(), 1u);
  EXPECT_TRUE(answer.Feed(TokenOf(1)).empty());
  EXPECT_EQ(answer.Feed(TokenOf(2)).tokens.size(), 2u);
  EXPECT_TRUE(answer.Feed(TokenOf(3)).empty());
  const AnswerDelta last = answer.Finish(v1::Finished::STOP);
  EXPECT_EQ(last.text, "");
  EXPECT_EQ(last.tokens.size(), 1u);
  EXPECT_EQ(answer.token_count(), 4u);
}

TEST(AnswerTest, ReportsTheTokenThatEndedIt) {
  const TableTokenizer tokenizer({"a", "b", "<end>"}, {2});
  AnswerOptions options;
  options.tokenizer = &tokenizer;
  options.eos_token_ids = {2};
  options.stop_token_ids = {1, 2};
  Answer by_client(&options, 0);
  EXPECT_EQ(FeedAll(&by_client, 2, v1::Finished::STOP).text, "a");
  EXPECT_EQ(by_client.finish_reason(), "stop");
  EXPECT_EQ(by_client.stop_token(), 1u);
  // The model's own end token is no reason to report, even if the client named it too.
  Answer by_model(&options, 0);
  by_model.Feed(TokenOf(0));
  by_model.Feed(TokenOf(2));
  by_model.Finish(v1::Finished::STOP);
  EXPECT_FALSE(by_model.stop_token().has_value());
  // Its text counts where the client wants to see what stopped it.
  options.include_stop = true;
  Answer shown(&options, 0);
  EXPECT_EQ(FeedAll(&shown, 2, v1::Finished::STOP).text, "ab");
  EXPECT_EQ(shown.stop_token(), 1u);
}

TEST(AnswerTest, NothingComesAfterTheEnd) {
  const TableTokenizer tokenizer({"stop", "more"});
  AnswerOptions options;
  options.tokenizer = &tokenizer;
  options.stop = {"stop"};
  options.keep_tokens = true;
  Answer answer(&options, 0);
  EXPECT_EQ(answer.Feed(TokenOf(0)).tokens.size(), 1u);
  EXPECT_TRUE(answer.ended());
  EXPECT_TRUE(answer.Feed(TokenOf(1)).empty());
  EXPECT_TRUE(answer.Finish(v1::Finished::LENGTH).empty());
  EXPECT_EQ(answer.finish_reason(), "stop");
  EXPECT_EQ(answer.token_count(), 1u);
}

TEST(AnswerTest, KeepsNoTokensThatNobodyWants) {
  const TableTokenizer tokenizer({"a", "b"});
  AnswerOptions options;
  options.tokenizer = &tokenizer;
  Answer answer(&options, 0);
  const Total total = FeedAll(&answer, 2);
  EXPECT_EQ(total.text, "ab");
  EXPECT_TRUE(total.ids.empty());
}

}  // namespace
}  // namespace tessera::openai
