#include "gateway/text/stream_decoder.h"

#include <random>

#include "gtest/gtest.h"
#include "tests/gateway/text/tiny_tokenizer.h"

namespace tessera {
namespace {

// Bytes are ids in the tiny vocabulary.
std::string FeedBytes(StreamDecoder* decoder, std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += decoder->Feed(static_cast<uint8_t>(byte));
  return text;
}

class StreamDecoderTest : public testing::Test {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ = TinyTokenizer();
};

TEST_F(StreamDecoderTest, NeverSplitsCodePoints) {
  StreamDecoder decoder(tokenizer_.get(), {});
  EXPECT_EQ(decoder.Feed(0xf0), "");
  EXPECT_EQ(decoder.Feed(0x9f), "");
  EXPECT_EQ(decoder.Feed(0x91), "");
  EXPECT_EQ(decoder.Feed(0x8d), "👍");
  EXPECT_EQ(decoder.Feed(kHello), "hello");
  EXPECT_EQ(decoder.Feed(0xe2), "");
  EXPECT_EQ(decoder.Finish(), "\xef\xbf\xbd");
}

TEST_F(StreamDecoderTest, RepairsAsADecodeOfTheWholeDoes) {
  std::mt19937 random(7);
  const std::string_view letters("\x80\xbf\xc2\xe0\xa0\xed\x9f\xf0\x90\xf4\x8f\xff\x41\xe2\x82\xac",
                                 16);
  for (int turn = 0; turn < 3000; ++turn) {
    std::vector<uint32_t> ids;
    for (size_t i = random() % 12; i > 0; --i) {
      ids.push_back(static_cast<uint8_t>(letters[random() % letters.size()]));
    }
    StreamDecoder decoder(tokenizer_.get(), {});
    std::string text;
    for (const uint32_t id : ids) text += decoder.Feed(id);
    text += decoder.Finish();
    EXPECT_EQ(text, tokenizer_->Decode(ids, false));
  }
}

TEST_F(StreamDecoderTest, MaximalPartsBecomeOneReplacement) {
  // Unicode 15, table 3-8.
  StreamDecoder decoder(tokenizer_.get(), {});
  const std::string text =
      FeedBytes(&decoder, "\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64") +
      decoder.Finish();
  EXPECT_EQ(text, "a\ufffd\ufffd\ufffdb\ufffdc\ufffd\ufffdd");
}

TEST_F(StreamDecoderTest, HoldsBackWhatMayBecomeAStopString) {
  StreamDecoder decoder(tokenizer_.get(), {"STOP"});
  EXPECT_EQ(FeedBytes(&decoder, "abcST"), "abc");
  EXPECT_EQ(FeedBytes(&decoder, "x"), "STx");
  EXPECT_EQ(FeedBytes(&decoder, "SSTO"), "S");
  EXPECT_FALSE(decoder.stopped());
  EXPECT_EQ(FeedBytes(&decoder, "Pmore"), "");
  EXPECT_TRUE(decoder.stopped());
  EXPECT_EQ(decoder.matched_stop(), "STOP");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST_F(StreamDecoderTest, FinishGivesBackWhatWasHeld) {
  StreamDecoder decoder(tokenizer_.get(), {"STOP", ""});
  EXPECT_EQ(FeedBytes(&decoder, "xSTO"), "x");
  EXPECT_EQ(decoder.Finish(), "STO");
  EXPECT_FALSE(decoder.stopped());
}

TEST_F(StreamDecoderTest, StopStringsAcrossTokensAndInsideOne) {
  StreamDecoder across(tokenizer_.get(), {"ohe"});
  EXPECT_EQ(across.Feed(kHello), "hell");
  EXPECT_EQ(across.Feed(kHello), "");
  EXPECT_TRUE(across.stopped());
  StreamDecoder inside(tokenizer_.get(), {"ell"});
  EXPECT_EQ(inside.Feed(kHello), "h");
  EXPECT_TRUE(inside.stopped());
}

TEST_F(StreamDecoderTest, SpecialTokensAreSkippedUnlessWanted) {
  StreamDecoder skipping(tokenizer_.get(), {});
  EXPECT_EQ(skipping.Feed(kEnd), "");
  EXPECT_EQ(skipping.Feed(kThink), "<think>");
  StreamDecoder showing(tokenizer_.get(), {}, false);
  EXPECT_EQ(showing.Feed(kEnd), "<|end|>");
}

// The first occurrence by its end, whatever the grouping: checked against a plain search.
TEST(StopMatcherTest, AgreesWithAPlainSearchInAnyCut) {
  std::mt19937 random(11);
  for (int turn = 0; turn < 5000; ++turn) {
    const auto draw = [&](size_t least, size_t most) {
      std::string text;
      for (size_t i = least + random() % (most - least + 1); i > 0; --i) text += "ab"[random() % 2];
      return text;
    };
    const std::vector<std::string> stops = {draw(1, 5), draw(2, 6), draw(3, 7)};
    const std::string text = draw(0, 30);
    size_t end = std::string::npos, begin = std::string::npos;
    for (const std::string& stop : stops) {
      const size_t found = text.find(stop);
      if (found == std::string::npos || found + stop.size() > end) continue;
      begin = found + stop.size() < end ? found : std::min(begin, found);
      end = found + stop.size();
    }
    StopMatcher matcher(stops);
    std::string out;
    bool matched = false;
    for (size_t at = 0; at < text.size() && !matched;) {
      const size_t size = 1 + random() % 4;
      matched = matcher.Append(std::string_view(text).substr(at, size), &out).has_value();
      at += size;
    }
    if (!matched) out += matcher.TakeHeld();
    EXPECT_EQ(matched, end != std::string::npos);
    EXPECT_EQ(out, text.substr(0, begin))
        << text << " " << stops[0] << " " << stops[1] << " " << stops[2];
  }
}

}  // namespace
}  // namespace tessera
