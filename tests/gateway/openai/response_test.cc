#include "gateway/openai/response.h"

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "boost/json/parse.hpp"
#include "boost/json/value.hpp"
#include "gtest/gtest.h"
#include "tests/gateway/openai/table_tokenizer.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

worker::v1::Started Started() {
  worker::v1::Started started;
  started.mutable_usage()->set_exact_tokens(1);
  started.mutable_usage()->set_blended_tokens(20);
  started.mutable_usage()->set_recomputed_tokens(300);
  started.mutable_usage()->set_computed_tokens(4000);
  started.set_policy("query_v");
  started.set_correction(true);
  started.set_queue_us(1500);
  started.set_prefill_us(250);
  started.set_full_prefill_us(3500);
  worker::v1::SegmentReport* segment = started.add_segments();
  segment->set_tokens(321);
  segment->set_source(worker::v1::SegmentReport::CACHE);
  segment->set_tier("ram");
  segment->set_recomputed_tokens(300);
  segment->set_cached_tokens(320);
  for (const uint32_t number : {0, 299, 310, 1}) segment->add_recomputed_rows(number);
  segment = started.add_segments();
  segment->set_tokens(4000);
  segment->set_source(worker::v1::SegmentReport::COMPUTED);
  return started;
}

// The JSON of one event; the test fails unless it is framed as one.
json::value Payload(const std::string& event) {
  EXPECT_EQ(event.substr(0, 6), "data: ");
  EXPECT_EQ(event.find("\n"), event.size() - 2);
  EXPECT_EQ(event.substr(event.size() - 2), "\n\n");
  return json::parse(event.substr(6));
}

class ResponseTest : public testing::Test {
 protected:
  ResponseTest() {
    answer_options_.tokenizer = &tokenizer_;
    answer_options_.stop_token_ids = {1};
    answer_options_.eos_token_ids = {};
    stopped_.emplace(&answer_options_, 0);
    worker::v1::Token token;
    token.set_id(1);
    stopped_->Feed(token);
    stopped_->Finish(worker::v1::Finished::STOP);
    cut_.emplace(&answer_options_, 0);
    cut_->Finish(worker::v1::Finished::LENGTH);
    usage_.prompts = {&started_};
    usage_.completion_tokens = 5;
  }

  ResponseBuilder Builder(Endpoint endpoint, bool logprobs = false) const {
    ResponseOptions options;
    options.endpoint = endpoint;
    options.request_id = "r1";
    options.model = "m";
    options.created = 1700000000;
    options.logprobs = logprobs;
    options.tokenizer = &tokenizer_;
    return ResponseBuilder(options);
  }

  const TableTokenizer tokenizer_{{"hi", "é", "\xe6\x97", "\""}};
  const worker::v1::Started started_ = Started();
  AnswerOptions answer_options_;
  std::optional<Answer> stopped_;
  std::optional<Answer> cut_;
  RequestUsage usage_;
};

TEST_F(ResponseTest, WholeChatAnswer) {
  ChoicePart first;
  first.text = "hi \"you\"\n";
  first.ended = &*stopped_;
  ChoicePart second;
  second.index = 1;
  second.ended = &*cut_;
  const json::value body =
      json::parse(Builder(Endpoint::kChat).Whole(std::vector<ChoicePart>{first, second}, usage_));
  EXPECT_EQ(body.at("id"), "chatcmpl-r1");
  EXPECT_EQ(body.at("object"), "chat.completion");
  EXPECT_EQ(body.at("created"), 1700000000);
  EXPECT_EQ(body.at("model"), "m");
  const json::value& choice = body.at("choices").at(0);
  EXPECT_EQ(choice.at("index"), 0);
  EXPECT_EQ(choice.at("message").at("role"), "assistant");
  EXPECT_EQ(choice.at("message").at("content"), "hi \"you\"\n");
  EXPECT_EQ(choice.at("finish_reason"), "stop");
  EXPECT_EQ(choice.at("stop_reason"), 1);
  EXPECT_TRUE(choice.at("logprobs").is_null());
  EXPECT_EQ(body.at("choices").at(1).at("index"), 1);
  EXPECT_EQ(body.at("choices").at(1).at("finish_reason"), "length");
  EXPECT_TRUE(body.at("choices").at(1).at("stop_reason").is_null());
  const json::value& usage = body.at("usage");
  EXPECT_EQ(usage.at("prompt_tokens"), 4321);
  EXPECT_EQ(usage.at("completion_tokens"), 5);
  EXPECT_EQ(usage.at("total_tokens"), 4326);
  EXPECT_EQ(usage.at("prompt_tokens_details").at("cached_tokens"), 21);
}

TEST_F(ResponseTest, TesseraObjectReportsThePrompt) {
  const json::value object = TesseraObject(usage_, /*rows=*/false);
  EXPECT_EQ(object.at("exact_tokens"), 1);
  EXPECT_EQ(object.at("blended_tokens"), 20);
  EXPECT_EQ(object.at("recomputed_tokens"), 300);
  EXPECT_EQ(object.at("computed_tokens"), 4000);
  EXPECT_EQ(object.at("policy"), "query_v");
  EXPECT_EQ(object.at("correction"), true);
  EXPECT_EQ(object.at("queue_ms"), 1.5);
  EXPECT_EQ(object.at("prefill_ms"), 0.25);
  EXPECT_EQ(object.at("full_prefill_ms"), 3.5);
  const json::array& segments = object.at("segments").as_array();
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[0].at("tokens"), 321);
  EXPECT_EQ(segments[0].at("source"), "cache");
  EXPECT_EQ(segments[0].at("tier"), "ram");
  EXPECT_EQ(segments[0].at("cached_tokens"), 320);
  EXPECT_EQ(segments[0].at("exact"), false);
  EXPECT_EQ(segments[0].at("recomputed_tokens"), 300);
  EXPECT_FALSE(segments[0].as_object().contains("recomputed_rows"));
  EXPECT_FALSE(segments[0].as_object().contains("prompt"));
  EXPECT_EQ(segments[1].at("source"), "computed");
  EXPECT_TRUE(segments[1].at("tier").is_null());
}

TEST_F(ResponseTest, SeveralPromptsAreSummed) {
  worker::v1::Started other = Started();
  other.set_queue_us(9000);
  usage_.prompts.push_back(&other);
  const json::value object = TesseraObject(usage_, /*rows=*/false);
  EXPECT_EQ(object.at("computed_tokens"), 8000);
  EXPECT_EQ(object.at("queue_ms"), 9.0);
  ASSERT_EQ(object.at("segments").as_array().size(), 4u);
  EXPECT_EQ(object.at("segments").at(1).at("prompt"), 0);
  EXPECT_EQ(object.at("segments").at(2).at("prompt"), 1);
  EXPECT_EQ(UsageObject(usage_).at("prompt_tokens"), 8642);
  EXPECT_EQ(UsageObject(usage_).at("total_tokens"), 8647);
}

TEST_F(ResponseTest, RecomputedRowsAreRuns) {
  const json::value object = TesseraObject(usage_, /*rows=*/true);
  EXPECT_EQ(object.at("segments").at(0).at("recomputed_rows"),
            (json::array{json::array{0, 299}, json::array{310, 1}}));
  EXPECT_EQ(object.at("segments").at(1).at("recomputed_rows"), json::array{});
}

TEST_F(ResponseTest, TooManyRunsAreLeftOut) {
  worker::v1::Started large = started_;
  for (uint32_t i = 0; i < kMostRowRuns; ++i) {
    large.mutable_segments(1)->add_recomputed_rows(2 * i);
    large.mutable_segments(1)->add_recomputed_rows(1);
  }
  usage_.prompts = {&large};
  const json::value object = TesseraObject(usage_, /*rows=*/true);
  EXPECT_EQ(object.at("segments").at(0).at("recomputed_rows").as_array().size(), 2u);
  EXPECT_EQ(object.at("segments").at(1).at("recomputed_rows").as_array().size(), kMostRowRuns - 2);
}

TEST_F(ResponseTest, AnEstimateMayBeMissing) {
  worker::v1::Started without = started_;
  without.clear_full_prefill_us();
  usage_.prompts = {&without};
  EXPECT_TRUE(TesseraObject(usage_, /*rows=*/false).at("full_prefill_ms").is_null());
}

TEST_F(ResponseTest, ChatStreamEvents) {
  ResponseOptions options;
  options.endpoint = Endpoint::kChat;
  options.request_id = "r1";
  options.model = "m";
  options.created = 1;
  options.include_usage = true;
  options.tokenizer = &tokenizer_;
  const ResponseBuilder builder(options);
  ChoicePart part;
  part.index = 3;
  part.prompt = &started_;
  const json::value first = Payload(builder.First(part, {}));
  part.prompt = nullptr;
  EXPECT_EQ(first.at("object"), "chat.completion.chunk");
  EXPECT_EQ(first.at("tessera").at("blended_tokens"), 20);
  EXPECT_EQ(first.at("choices").at(0).at("delta").at("role"), "assistant");
  EXPECT_TRUE(first.at("usage").is_null());
  part.text = "a\nb";
  const json::value text = Payload(builder.Part(part, {}));
  EXPECT_EQ(text.at("choices").at(0).at("delta").at("content"), "a\nb");
  EXPECT_FALSE(text.as_object().contains("tessera"));
  EXPECT_TRUE(text.at("choices").at(0).at("finish_reason").is_null());
  part.text = "";
  part.ended = &*cut_;
  const json::value last = Payload(builder.Part(part, {}));
  EXPECT_TRUE(last.at("choices").at(0).at("delta").as_object().empty());
  EXPECT_EQ(last.at("choices").at(0).at("finish_reason"), "length");
  const json::value usage = Payload(builder.Usage(usage_));
  EXPECT_TRUE(usage.at("choices").as_array().empty());
  EXPECT_EQ(usage.at("usage").at("completion_tokens"), 5);
  EXPECT_EQ(usage.at("tessera").at("policy"), "query_v");
  for (const json::value& event : {first, text, last}) {
    EXPECT_EQ(event.at("choices").at(0).at("index"), 3);
  }
  for (const json::value& event : {first, text, last, usage}) {
    EXPECT_EQ(event.at("id"), "chatcmpl-r1");
    EXPECT_EQ(event.at("created"), 1);
    EXPECT_EQ(event.at("model"), "m");
  }
}

TEST_F(ResponseTest, CompletionStreamEvents) {
  const ResponseBuilder builder = Builder(Endpoint::kCompletions);
  ChoicePart part;
  part.text = "é";
  part.prompt = &started_;  // nobody has asked for it
  const json::value text = Payload(builder.Part(part, {}));
  EXPECT_FALSE(text.as_object().contains("tessera"));
  EXPECT_EQ(text.at("object"), "text_completion");
  EXPECT_EQ(text.at("id"), "cmpl-r1");
  EXPECT_EQ(text.at("choices").at(0).at("text"), "é");
  EXPECT_FALSE(text.as_object().contains("usage"));
  part.text = "tail";
  part.ended = &*stopped_;
  const json::value last = Payload(builder.Part(part, {}));
  EXPECT_EQ(last.at("choices").at(0).at("text"), "tail");
  EXPECT_EQ(last.at("choices").at(0).at("finish_reason"), "stop");
}

TEST_F(ResponseTest, ChatLogprobsHaveExactBytes) {
  const std::vector<ScoredToken> tokens = {
      {.id = 1, .logprob = -0.5f, .top = {{0, -0.25f}, {1, -0.5f}}, .offset = 0},
      {.id = 2, .logprob = -INFINITY, .top = {}, .offset = 1}};
  ChoicePart part;
  part.tokens = tokens;
  const json::value chunk = Payload(Builder(Endpoint::kChat, true).Part(part, {}));
  const json::value& content = chunk.at("choices").at(0).at("logprobs").at("content");
  EXPECT_EQ(content.at(0).at("token"), "é");
  EXPECT_EQ(content.at(0).at("logprob"), -0.5);
  EXPECT_EQ(content.at(0).at("bytes"), (json::array{0xc3, 0xa9}));
  ASSERT_EQ(content.at(0).at("top_logprobs").as_array().size(), 2u);
  EXPECT_EQ(content.at(0).at("top_logprobs").at(0).at("token"), "hi");
  EXPECT_EQ(content.at(0).at("top_logprobs").at(0).at("bytes"), (json::array{'h', 'i'}));
  // Half of a code point.
  EXPECT_EQ(content.at(1).at("token"), "\ufffd");
  EXPECT_EQ(content.at(1).at("bytes"), (json::array{0xe6, 0x97}));
  EXPECT_EQ(content.at(1).at("logprob"), -9999.0);
}

TEST_F(ResponseTest, CompletionLogprobsAreArraysOfOneLength) {
  const std::vector<ScoredToken> tokens = {
      {.id = 0, .logprob = std::nullopt, .top = {}, .offset = 0},
      {.id = 1, .logprob = -2.0f, .top = {{0, -0.25f}}, .offset = 2}};
  ChoicePart part;
  part.tokens = tokens;
  const json::value chunk = Payload(Builder(Endpoint::kCompletions, true).Part(part, {}));
  const json::value& logprobs = chunk.at("choices").at(0).at("logprobs");
  EXPECT_EQ(logprobs.at("tokens"), (json::array{"hi", "é"}));
  EXPECT_EQ(logprobs.at("token_logprobs"), (json::array{nullptr, -2.0}));
  EXPECT_EQ(logprobs.at("text_offset"), (json::array{0, 2}));
  EXPECT_TRUE(logprobs.at("top_logprobs").at(0).is_null());
  // The token itself is there although it was not among the likeliest.
  EXPECT_EQ(logprobs.at("top_logprobs").at(1), (json::object{{"hi", -0.25}, {"é", -2.0}}));
}

}  // namespace
}  // namespace tessera::openai
