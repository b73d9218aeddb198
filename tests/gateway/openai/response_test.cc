#include "gateway/openai/response.h"

#include <string>

#include "boost/json/parse.hpp"
#include "boost/json/value.hpp"
#include "gtest/gtest.h"

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
  worker::v1::SegmentReport* segment = started.add_segments();
  segment->set_tokens(321);
  segment->set_source(worker::v1::SegmentReport::CACHE);
  segment->set_tier("ram");
  segment->set_recomputed_tokens(300);
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

TEST(ResponseTest, WholeChatAnswer) {
  const ResponseBuilder builder(Endpoint::kChat, "r1", "m", 1700000000, false);
  const json::value body = json::parse(builder.Whole("hi \"you\"\n", "stop", Started(), 5));
  EXPECT_EQ(body.at("id"), "chatcmpl-r1");
  EXPECT_EQ(body.at("object"), "chat.completion");
  EXPECT_EQ(body.at("created"), 1700000000);
  EXPECT_EQ(body.at("model"), "m");
  const json::value& choice = body.at("choices").at(0);
  EXPECT_EQ(choice.at("message").at("role"), "assistant");
  EXPECT_EQ(choice.at("message").at("content"), "hi \"you\"\n");
  EXPECT_EQ(choice.at("finish_reason"), "stop");
  const json::value& usage = body.at("usage");
  EXPECT_EQ(usage.at("prompt_tokens"), 4321);
  EXPECT_EQ(usage.at("completion_tokens"), 5);
  EXPECT_EQ(usage.at("total_tokens"), 4326);
  EXPECT_EQ(usage.at("prompt_tokens_details").at("cached_tokens"), 21);
}

TEST(ResponseTest, TesseraObjectReportsThePrompt) {
  const json::value object = TesseraObject(Started());
  EXPECT_EQ(object.at("exact_tokens"), 1);
  EXPECT_EQ(object.at("blended_tokens"), 20);
  EXPECT_EQ(object.at("recomputed_tokens"), 300);
  EXPECT_EQ(object.at("computed_tokens"), 4000);
  EXPECT_EQ(object.at("policy"), "query_v");
  EXPECT_EQ(object.at("correction"), true);
  EXPECT_EQ(object.at("queue_ms"), 1.5);
  EXPECT_EQ(object.at("prefill_ms"), 0.25);
  const json::array& segments = object.at("segments").as_array();
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[0].at("tokens"), 321);
  EXPECT_EQ(segments[0].at("source"), "cache");
  EXPECT_EQ(segments[0].at("tier"), "ram");
  EXPECT_EQ(segments[0].at("recomputed_tokens"), 300);
  EXPECT_EQ(segments[1].at("source"), "computed");
  EXPECT_TRUE(segments[1].at("tier").is_null());
}

TEST(ResponseTest, ChatStreamEvents) {
  const ResponseBuilder builder(Endpoint::kChat, "r1", "m", 1, true);
  const json::value first = Payload(builder.First());
  EXPECT_EQ(first.at("object"), "chat.completion.chunk");
  EXPECT_EQ(first.at("choices").at(0).at("delta").at("role"), "assistant");
  EXPECT_TRUE(first.at("usage").is_null());
  const json::value text = Payload(builder.Text("a\nb"));
  EXPECT_EQ(text.at("choices").at(0).at("delta").at("content"), "a\nb");
  EXPECT_TRUE(text.at("choices").at(0).at("finish_reason").is_null());
  const json::value last = Payload(builder.Last("", "length"));
  EXPECT_TRUE(last.at("choices").at(0).at("delta").as_object().empty());
  EXPECT_EQ(last.at("choices").at(0).at("finish_reason"), "length");
  const json::value usage = Payload(builder.Usage(Started(), 2));
  EXPECT_TRUE(usage.at("choices").as_array().empty());
  EXPECT_EQ(usage.at("usage").at("completion_tokens"), 2);
  EXPECT_EQ(usage.at("tessera").at("policy"), "query_v");
  for (const json::value& event : {first, text, last, usage}) {
    EXPECT_EQ(event.at("id"), "chatcmpl-r1");
    EXPECT_EQ(event.at("created"), 1);
    EXPECT_EQ(event.at("model"), "m");
  }
}

TEST(ResponseTest, CompletionStreamEvents) {
  const ResponseBuilder builder(Endpoint::kCompletions, "r1", "m", 1, false);
  EXPECT_EQ(builder.First(), "");
  const json::value text = Payload(builder.Text("é"));
  EXPECT_EQ(text.at("object"), "text_completion");
  EXPECT_EQ(text.at("id"), "cmpl-r1");
  EXPECT_EQ(text.at("choices").at(0).at("text"), "é");
  EXPECT_FALSE(text.as_object().contains("usage"));
  const json::value last = Payload(builder.Last("tail", "stop"));
  EXPECT_EQ(last.at("choices").at(0).at("text"), "tail");
}

}  // namespace
}  // namespace tessera::openai
