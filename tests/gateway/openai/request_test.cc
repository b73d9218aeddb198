#include "gateway/openai/request.h"

#include <string>
#include <vector>

#include "tests/gateway/openai/parse_request.h"

namespace tessera::openai {
namespace {

TEST(RequestTest, DefaultsAreOpenAis) {
  const ApiRequest request = Parse(Endpoint::kCompletions, R"({"model": "m", "prompt": "hi"})");
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(std::get<std::string>(request.prompts.at(0)), "hi");
  EXPECT_FALSE(request.max_tokens.has_value());
  EXPECT_EQ(request.sampling.temperature(), 1.0f);
  EXPECT_EQ(request.sampling.top_p(), 1.0f);
  EXPECT_EQ(request.sampling.top_k(), 0u);
  EXPECT_FALSE(request.sampling.has_seed());
  EXPECT_EQ(request.blend.mode(), worker::v1::BLEND_MODE_UNSPECIFIED);
  EXPECT_FALSE(request.blend.has_recompute_ratio());
  EXPECT_FALSE(request.blend.has_correction());
  EXPECT_FALSE(request.stream);
  EXPECT_TRUE(request.skip_special_tokens);
}

TEST(RequestTest, ReadsSampling) {
  const ApiRequest request = ParseCompletion(
      R"("max_tokens": 7, "temperature": 0, "top_p": 0.5, "top_k": 40, "seed": 42, "user": "u",
         "ignore_eos": true, "stop_token_ids": [3, 4], "cache_salt": "s",
         "skip_special_tokens": false)");
  EXPECT_EQ(request.max_tokens, 7u);
  EXPECT_EQ(request.sampling.temperature(), 0.0f);
  EXPECT_EQ(request.sampling.top_p(), 0.5f);
  EXPECT_EQ(request.sampling.top_k(), 40u);
  EXPECT_EQ(request.sampling.seed(), 42u);
  EXPECT_TRUE(request.ignore_eos);
  EXPECT_EQ(request.stop_token_ids, (std::vector<uint32_t>{3, 4}));
  EXPECT_EQ(request.cache_salt, "s");
  EXPECT_FALSE(request.skip_special_tokens);
  EXPECT_EQ(ParseCompletion(R"("top_k": -1)").sampling.top_k(), 0u);
  EXPECT_EQ(ParseCompletion(R"("max_tokens": 16.0)").max_tokens, 16u);
  EXPECT_EQ(ParseCompletion(R"("max_tokens": 3, "max_completion_tokens": 5)").max_tokens, 5u);
  EXPECT_EQ(ParseCompletion(R"("seed": 18446744073709551615)").sampling.seed(), ~uint64_t{0});
  EXPECT_EQ(ParseCompletion(R"("seed": -1)").sampling.seed(), ~uint64_t{0});
}

TEST(RequestTest, ReadsStopsAndStreaming) {
  EXPECT_EQ(ParseCompletion(R"("stop": "a")").stop, (std::vector<std::string>{"a"}));
  EXPECT_EQ(ParseCompletion(R"("stop": ["a", "b"])").stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(ParseCompletion(R"("stop": null)").stop.empty());
  const ApiRequest request =
      ParseCompletion(R"("stream": true, "stream_options": {"include_usage": true})");
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
}

TEST(RequestTest, ReadsWhatShapesTheDraw) {
  const auto sampling =
      ParseCompletion(R"("min_p": 0.25, "presence_penalty": -2, "frequency_penalty": 1.5,
          "repetition_penalty": 1.25, "min_tokens": 3, "logit_bias": {"7": -100, "9": 0.5})")
          .sampling;
  EXPECT_EQ(sampling.min_p(), 0.25f);
  EXPECT_EQ(sampling.presence_penalty(), -2.0f);
  EXPECT_EQ(sampling.frequency_penalty(), 1.5f);
  EXPECT_EQ(sampling.repetition_penalty(), 1.25f);
  EXPECT_EQ(sampling.min_tokens(), 3u);
  ASSERT_EQ(sampling.logit_bias().size(), 2u);
  EXPECT_EQ(sampling.logit_bias().at(7), -100.0f);
  EXPECT_EQ(sampling.logit_bias().at(9), 0.5f);
  EXPECT_EQ(RefusedCompletion(R"("min_p": 1.5)"), "min_p");
  EXPECT_EQ(RefusedCompletion(R"("presence_penalty": 2.5)"), "presence_penalty");
  EXPECT_EQ(RefusedCompletion(R"("frequency_penalty": -2.5)"), "frequency_penalty");
  EXPECT_EQ(RefusedCompletion(R"("repetition_penalty": 0)"), "repetition_penalty");
  EXPECT_EQ(RefusedCompletion(R"("min_tokens": -1)"), "min_tokens");
  EXPECT_EQ(RefusedCompletion(R"("min_tokens": 5, "max_tokens": 4)"), "min_tokens");
  EXPECT_EQ(RefusedCompletion(R"("logit_bias": [1])"), "logit_bias");
  EXPECT_EQ(RefusedCompletion(R"("logit_bias": {"a": 1})"), "logit_bias");
  EXPECT_EQ(RefusedCompletion(R"("logit_bias": {"-1": 1})"), "logit_bias");
  EXPECT_EQ(RefusedCompletion(R"("logit_bias": {"1": 101})"), "logit_bias");
  EXPECT_EQ(RefusedCompletion(R"("logit_bias": {"1": "x"})"), "logit_bias");
  std::string many;
  for (int i = 0; i < 1025; ++i) {
    many += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\": 1";
  }
  EXPECT_EQ(RefusedCompletion("\"logit_bias\": {" + many + "}"), "logit_bias");
}

TEST(RequestTest, ReadsAnswersAndLength) {
  EXPECT_EQ(ParseCompletion(R"("n": 128, "best_of": 128)").n, 128u);
  EXPECT_EQ(RefusedCompletion(R"("n": 0)"), "n");
  EXPECT_EQ(RefusedCompletion(R"("n": 129)"), "n");
  EXPECT_EQ(RefusedCompletion(R"("best_of": 3)"), "best_of");
  EXPECT_EQ(RefusedCompletion(R"("n": 2, "best_of": 3)"), "best_of");
  EXPECT_EQ(ParseCompletion(R"("echo": true, "max_tokens": 0)").max_tokens, 0u);
  EXPECT_TRUE(ParseCompletion(R"("echo": true)").echo);
  EXPECT_EQ(RefusedCompletion(R"("echo": false, "max_tokens": 0)"), "max_tokens");
  EXPECT_EQ(ParseCompletion(R"("truncate_prompt_tokens": 5)").truncate_prompt_tokens, 5u);
  EXPECT_EQ(ParseCompletion(R"("truncate_prompt_tokens": -1)").truncate_prompt_tokens, 0u);
  EXPECT_FALSE(ParseCompletion(R"("n": 1)").truncate_prompt_tokens.has_value());
  EXPECT_EQ(RefusedCompletion(R"("truncate_prompt_tokens": 0)"), "truncate_prompt_tokens");
  EXPECT_EQ(ParseCompletion(R"("priority": -5)").priority, -5);
  EXPECT_EQ(RefusedCompletion(R"("priority": 3000000000)"), "priority");
  EXPECT_TRUE(ParseCompletion(R"("return_token_ids": true)").return_token_ids);
  EXPECT_TRUE(ParseCompletion(R"("include_stop_str_in_output": true)").include_stop);
  EXPECT_EQ(RefusedCompletion("\"stop\": \"" + std::string(1025, 'x') + "\""), "stop");
}

TEST(RequestTest, PromptsAndAnswersAreBounded) {
  const auto body = [](int prompts, int n) {
    std::string list;
    for (int i = 0; i < prompts; ++i) list += i == 0 ? "\"a\"" : ", \"a\"";
    return "{\"prompt\": [" + list + "], \"n\": " + std::to_string(n) + "}";
  };
  EXPECT_EQ(Parse(Endpoint::kCompletions, body(8, 128)).prompts.size(), 8u);
  EXPECT_EQ(RefusedParam(Endpoint::kCompletions, body(9, 128)), "n");
  EXPECT_EQ(Parse(Endpoint::kCompletions, body(16, 1)).prompts.size(), 16u);
  EXPECT_EQ(RefusedParam(Endpoint::kCompletions, body(17, 1)), "prompt");
}

TEST(RequestTest, ReadsLogprobsOfBothEndpoints) {
  EXPECT_EQ(ParseCompletion(R"("logprobs": 0)").logprobs, 0u);
  EXPECT_EQ(ParseCompletion(R"("logprobs": 20)").logprobs, 20u);
  EXPECT_FALSE(ParseCompletion(R"("logprobs": null)").logprobs.has_value());
  EXPECT_FALSE(ParseCompletion(R"("logprobs": false)").logprobs.has_value());
  EXPECT_EQ(RefusedCompletion(R"("logprobs": 21)"), "logprobs");
  EXPECT_EQ(RefusedCompletion(R"("logprobs": true)"), "logprobs");
  EXPECT_EQ(RefusedCompletion(R"("logprobs": 2, "top_logprobs": 2)"), "top_logprobs");
  EXPECT_EQ(ParseChat(R"("logprobs": true)").logprobs, 0u);
  EXPECT_EQ(ParseChat(R"("logprobs": true, "top_logprobs": 20)").logprobs, 20u);
  EXPECT_FALSE(ParseChat(R"("logprobs": false, "top_logprobs": 0)").logprobs.has_value());
  EXPECT_EQ(RefusedChat(R"("top_logprobs": 5)"), "top_logprobs");
  EXPECT_EQ(RefusedChat(R"("logprobs": true, "top_logprobs": 21)"), "top_logprobs");
  EXPECT_EQ(RefusedChat(R"("logprobs": 5)"), "logprobs");
}

TEST(RequestTest, ReadsStreamOptions) {
  const ApiRequest request = ParseCompletion(
      R"("stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true})");
  EXPECT_TRUE(request.include_usage);
  EXPECT_TRUE(request.continuous_usage);
}

TEST(RequestTest, IgnoresUnknownFieldsAndHarmlessValues) {
  ParseCompletion(R"("foo": [1], "n": 1, "best_of": 1, "logprobs": null, "presence_penalty": 0,
                     "frequency_penalty": 0.0, "logit_bias": {}, "echo": false, "suffix": null,
                     "add_special_tokens": true, "top_logprobs": 0)");
  ParseChat(R"("logprobs": false, "tools": [], "tool_choice": "none", "echo": false,
               "response_format": {"type": "text"}, "store": true, "add_special_tokens": false)");
}

TEST(RequestTest, RefusesWhatWouldChangeTheMeaning) {
  EXPECT_EQ(RefusedCompletion(R"("suffix": "x")"), "suffix");
  EXPECT_EQ(RefusedCompletion(R"("documents": ["x"])"), "documents");
  EXPECT_EQ(RefusedCompletion(R"("prompt_logprobs": 1)"), "prompt_logprobs");
  EXPECT_EQ(RefusedCompletion(R"("use_beam_search": true)"), "use_beam_search");
  EXPECT_EQ(RefusedCompletion(R"("guided_regex": "a+")"), "guided_regex");
  EXPECT_EQ(RefusedCompletion(R"("add_special_tokens": false)"), "add_special_tokens");
  EXPECT_EQ(RefusedCompletion(R"("bad_words": ["x"])"), "bad_words");
  EXPECT_EQ(RefusedChat(R"("echo": true)"), "echo");
  EXPECT_EQ(RefusedChat(R"("tools": [{"type": "function"}])"), "tools");
  EXPECT_EQ(RefusedChat(R"("tool_choice": "required")"), "tool_choice");
  EXPECT_EQ(RefusedChat(R"("response_format": {"type": "json_object"})"), "response_format");
  EXPECT_EQ(RefusedChat(R"("modalities": ["text", "audio"])"), "modalities");
  EXPECT_EQ(RefusedChat(R"("audio": {})"), "audio");
}

TEST(RequestTest, ChecksTypesAndRanges) {
  EXPECT_EQ(RefusedCompletion(R"("model": 5)"), "model");
  EXPECT_EQ(RefusedCompletion(R"("max_tokens": 0)"), "max_tokens");
  EXPECT_EQ(RefusedCompletion(R"("max_tokens": -1)"), "max_tokens");
  EXPECT_EQ(RefusedCompletion(R"("max_tokens": 1.5)"), "max_tokens");
  EXPECT_EQ(RefusedCompletion(R"("max_tokens": "16")"), "max_tokens");
  EXPECT_EQ(RefusedCompletion(R"("max_tokens": 99999999999)"), "max_tokens");
  EXPECT_EQ(RefusedCompletion(R"("max_completion_tokens": true)"), "max_completion_tokens");
  EXPECT_EQ(RefusedCompletion(R"("temperature": -0.1)"), "temperature");
  EXPECT_EQ(RefusedCompletion(R"("temperature": 2.1)"), "temperature");
  EXPECT_EQ(RefusedCompletion(R"("temperature": "hot")"), "temperature");
  EXPECT_EQ(RefusedCompletion(R"("temperature": 1e999)"), "temperature");
  EXPECT_EQ(RefusedCompletion(R"("top_p": 0)"), "top_p");
  EXPECT_EQ(RefusedCompletion(R"("top_p": 1.01)"), "top_p");
  EXPECT_EQ(RefusedCompletion(R"("top_k": -2)"), "top_k");
  EXPECT_EQ(RefusedCompletion(R"("seed": "x")"), "seed");
  EXPECT_EQ(RefusedCompletion(R"("user": 1)"), "user");
  EXPECT_EQ(RefusedCompletion(R"("stream": "yes")"), "stream");
  EXPECT_EQ(RefusedCompletion(R"("stream_options": {"include_usage": true})"), "stream_options");
  EXPECT_EQ(RefusedCompletion(R"("stream": true, "stream_options": {"include_usage": 1})"),
            "stream_options");
  EXPECT_EQ(RefusedCompletion(R"("stop": ["a", "b", "c", "d", "e"])"), "stop");
  EXPECT_EQ(RefusedCompletion(R"("stop": 5)"), "stop");
  EXPECT_EQ(RefusedCompletion(R"("stop": [5])"), "stop");
  EXPECT_EQ(RefusedCompletion(R"("stop": "")"), "stop");
  EXPECT_EQ(RefusedCompletion(R"("stop_token_ids": [-1])"), "stop_token_ids");
  EXPECT_EQ(RefusedCompletion(R"("ignore_eos": 1)"), "ignore_eos");
  EXPECT_EQ(RefusedCompletion(R"("cache_salt": 1)"), "cache_salt");
}

TEST(RequestTest, RefusesBodiesThatAreNotJson) {
  for (const std::string& body :
       {std::string(), std::string("  \n"), std::string("{"), std::string("[]"), std::string("5"),
        std::string(R"({"prompt": "x"} {})"), std::string(R"({"prompt": "\ud800"})"),
        std::string("{\"prompt\": \"\xff\"}"), std::string("{\"prompt\": \"\xc3\"}"),
        std::string(R"({"prompt": NaN})"), std::string(100000, '['),
        std::string("{\"prompt\": \"a\nb\"}")}) {
    EXPECT_EQ(RefusedParam(Endpoint::kCompletions, body), "null");
  }
}

}  // namespace
}  // namespace tessera::openai
