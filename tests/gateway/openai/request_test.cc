#include "gateway/openai/request.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "boost/json/object.hpp"
#include "boost/json/serialize.hpp"
#include "gateway/openai/error.h"
#include "gtest/gtest.h"

namespace tessera::openai {
namespace {

ApiRequest Parse(Endpoint endpoint, const std::string& body) {
  absl::StatusOr<ApiRequest> request = ParseRequest(endpoint, body);
  EXPECT_TRUE(request.ok()) << body << ": " << request.status();
  return request.ok() ? *request : ApiRequest();
}

ApiRequest Completion(const std::string& fields) {
  return Parse(Endpoint::kCompletions, R"({"prompt": "hi", )" + fields + "}");
}

// The parameter that an error names; the test fails unless the status is a 400.
std::string RefusedParam(Endpoint endpoint, const std::string& body) {
  const absl::StatusOr<ApiRequest> request = ParseRequest(endpoint, body);
  EXPECT_FALSE(request.ok()) << body;
  if (request.ok()) return "accepted";
  EXPECT_EQ(HttpStatus(request.status()), 400);
  EXPECT_FALSE(request.status().message().empty());
  const auto error = ErrorObject(request.status()).at("error").as_object();
  return error.at("param").is_null() ? "null" : std::string(error.at("param").as_string());
}

std::string RefusedCompletion(const std::string& fields) {
  return RefusedParam(Endpoint::kCompletions, R"({"prompt": "hi", )" + fields + "}");
}

std::string RefusedChat(const std::string& fields) {
  return RefusedParam(Endpoint::kChat,
                      R"({"messages": [{"role": "user", "content": "hi"}], )" + fields + "}");
}

TEST(RequestTest, DefaultsAreOpenAis) {
  const ApiRequest request = Parse(Endpoint::kCompletions, R"({"model": "m", "prompt": "hi"})");
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(std::get<std::string>(request.prompt), "hi");
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
  const ApiRequest request = Completion(
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
  EXPECT_EQ(Completion(R"("top_k": -1)").sampling.top_k(), 0u);
  EXPECT_EQ(Completion(R"("max_tokens": 16.0)").max_tokens, 16u);
  EXPECT_EQ(Completion(R"("max_tokens": 3, "max_completion_tokens": 5)").max_tokens, 5u);
  EXPECT_EQ(Completion(R"("seed": 18446744073709551615)").sampling.seed(), ~uint64_t{0});
  EXPECT_EQ(Completion(R"("seed": -1)").sampling.seed(), ~uint64_t{0});
}

TEST(RequestTest, ReadsStopsAndStreaming) {
  EXPECT_EQ(Completion(R"("stop": "a")").stop, (std::vector<std::string>{"a"}));
  EXPECT_EQ(Completion(R"("stop": ["a", "b"])").stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(Completion(R"("stop": null)").stop.empty());
  const ApiRequest request =
      Completion(R"("stream": true, "stream_options": {"include_usage": true})");
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
}

TEST(RequestTest, ReadsBlendOptions) {
  const ApiRequest request = Completion(
      R"("tessera": {"mode": "exact", "policy": "query_v+first", "recompute_ratio": 0,
                     "correction": false})");
  EXPECT_EQ(request.blend.mode(), worker::v1::EXACT);
  EXPECT_EQ(request.blend.policy(), "query_v+first");
  EXPECT_TRUE(request.blend.has_recompute_ratio());
  EXPECT_EQ(request.blend.recompute_ratio(), 0.0f);
  EXPECT_TRUE(request.blend.has_correction());
  EXPECT_FALSE(request.blend.correction());
  EXPECT_EQ(Completion(R"("tessera": {"mode": "auto"})").blend.mode(), worker::v1::AUTO);
  for (const char* policy : {"query_v", "query", "hkvd_v", "hkvd_k", "first_k", "none", "full",
                             "random", "query+first"}) {
    EXPECT_EQ(Completion(std::string(R"("tessera": {"policy": ")") + policy + "\"}").blend.policy(),
              policy);
  }
}

TEST(RequestTest, ReadsEveryFormOfPrompt) {
  const auto ids = [](const std::string& prompt) {
    return std::get<std::vector<uint32_t>>(
        Parse(Endpoint::kCompletions, "{\"prompt\": " + prompt + "}").prompt);
  };
  EXPECT_EQ(ids("[1, 2]"), (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(ids("[[1, 2]]"), (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(std::get<std::string>(Parse(Endpoint::kCompletions, R"({"prompt": ["x"]})").prompt),
            "x");
}

TEST(RequestTest, ReadsMessagesAndDocuments) {
  const ApiRequest request = Parse(Endpoint::kChat, R"({"messages": [
      {"role": "system", "content": "s"},
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
       "name": "n"},
      {"role": "assistant", "content": null, "tool_calls": []}],
      "documents": ["d", {"title": "t", "text": "e"}],
      "chat_template_kwargs": {"enable_thinking": false}, "add_generation_prompt": false})");
  const ChatPrompt& prompt = std::get<ChatPrompt>(request.prompt);
  ASSERT_EQ(prompt.messages.size(), 3u);
  EXPECT_EQ(prompt.messages[0].role, "system");
  EXPECT_EQ(prompt.messages[1].parts, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(prompt.messages[1].fields.at("name"), "n");
  EXPECT_TRUE(prompt.messages[2].parts.empty());
  ASSERT_EQ(prompt.documents.size(), 2u);
  EXPECT_EQ(prompt.documents[0].text, "d");
  EXPECT_EQ(prompt.documents[1].title, "t");
  EXPECT_FALSE(prompt.add_generation_prompt);
  EXPECT_EQ(prompt.variables.at("enable_thinking"), false);
}

TEST(RequestTest, IgnoresUnknownFieldsAndHarmlessValues) {
  Completion(R"("foo": [1], "n": 1, "best_of": 1, "logprobs": null, "presence_penalty": 0,
                "frequency_penalty": 0.0, "logit_bias": {}, "echo": false, "suffix": null)");
  Parse(Endpoint::kChat, R"({"messages": [{"role": "user", "content": "x"}], "logprobs": false,
      "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "store": true})");
}

TEST(RequestTest, RefusesWhatWouldChangeTheMeaning) {
  EXPECT_EQ(RefusedCompletion(R"("n": 2)"), "n");
  EXPECT_EQ(RefusedCompletion(R"("best_of": 3)"), "best_of");
  EXPECT_EQ(RefusedCompletion(R"("echo": true)"), "echo");
  EXPECT_EQ(RefusedCompletion(R"("logprobs": 0)"), "logprobs");
  EXPECT_EQ(RefusedCompletion(R"("logit_bias": {"5": 1})"), "logit_bias");
  EXPECT_EQ(RefusedCompletion(R"("presence_penalty": 0.5)"), "presence_penalty");
  EXPECT_EQ(RefusedCompletion(R"("frequency_penalty": -1)"), "frequency_penalty");
  EXPECT_EQ(RefusedCompletion(R"("suffix": "x")"), "suffix");
  EXPECT_EQ(RefusedCompletion(R"("documents": ["x"])"), "documents");
  EXPECT_EQ(RefusedChat(R"("tools": [{"type": "function"}])"), "tools");
  EXPECT_EQ(RefusedChat(R"("tool_choice": "required")"), "tool_choice");
  EXPECT_EQ(RefusedChat(R"("response_format": {"type": "json_object"})"), "response_format");
  EXPECT_EQ(RefusedChat(R"("logprobs": true)"), "logprobs");
  EXPECT_EQ(RefusedChat(R"("top_logprobs": 5)"), "top_logprobs");
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

TEST(RequestTest, ChecksBlendOptions) {
  EXPECT_EQ(RefusedCompletion(R"("tessera": [])"), "tessera");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"mode": "fast"})"), "tessera.mode");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"mode": 1})"), "tessera.mode");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"policy": "best"})"), "tessera.policy");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"policy": "first"})"), "tessera.policy");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"policy": "query_v+"})"), "tessera.policy");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"policy": ""})"), "tessera.policy");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"recompute_ratio": 1.1})"), "tessera.recompute_ratio");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"recompute_ratio": -0.1})"),
            "tessera.recompute_ratio");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"recompute_ratio": "a"})"), "tessera.recompute_ratio");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"correction": "on"})"), "tessera.correction");
  EXPECT_EQ(RefusedCompletion(R"("tessera": {"ratio": 0.5})"), "tessera.ratio");
}

TEST(RequestTest, ChecksPromptsAndMessages) {
  const auto prompt = [](const std::string& body) {
    return RefusedParam(Endpoint::kCompletions, body);
  };
  EXPECT_EQ(prompt("{}"), "prompt");
  EXPECT_EQ(prompt(R"({"prompt": ""})"), "prompt");
  EXPECT_EQ(prompt(R"({"prompt": []})"), "prompt");
  EXPECT_EQ(prompt(R"({"prompt": [[]]})"), "prompt");
  EXPECT_EQ(prompt(R"({"prompt": 5})"), "prompt");
  EXPECT_EQ(prompt(R"({"prompt": [1, "x"]})"), "prompt");
  EXPECT_EQ(prompt(R"({"prompt": [-1]})"), "prompt");
  EXPECT_EQ(prompt(R"({"prompt": ["a", "b"]})"), "prompt");
  const auto messages = [](const std::string& list) {
    return RefusedParam(Endpoint::kChat, R"({"messages": )" + list + "}");
  };
  EXPECT_EQ(RefusedParam(Endpoint::kChat, R"({"prompt": "x"})"), "messages");
  EXPECT_EQ(messages("[]"), "messages");
  EXPECT_EQ(messages(R"("x")"), "messages");
  EXPECT_EQ(messages("[5]"), "messages[0]");
  EXPECT_EQ(messages(R"([{"content": "x"}])"), "messages[0].role");
  EXPECT_EQ(messages(R"([{"role": 5, "content": "x"}])"), "messages[0].role");
  EXPECT_EQ(messages(R"([{"role": "user"}])"), "messages[0].content");
  EXPECT_EQ(messages(R"([{"role": "user", "content": 5}])"), "messages[0].content");
  EXPECT_EQ(messages(R"([{"role": "user", "content": [{"type": "image_url"}]}])"),
            "messages[0].content[0]");
  EXPECT_EQ(messages(R"([{"role": "user", "content": [{"type": "text"}]}])"),
            "messages[0].content[0].text");
  EXPECT_EQ(RefusedChat(R"("documents": "x")"), "documents");
  EXPECT_EQ(RefusedChat(R"("documents": [5])"), "documents[0]");
  EXPECT_EQ(RefusedChat(R"("documents": [{"title": "x"}])"), "documents[0]");
  EXPECT_EQ(RefusedChat(R"("chat_template_kwargs": 5)"), "chat_template_kwargs");
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
