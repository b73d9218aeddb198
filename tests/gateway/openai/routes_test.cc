// The routes beside completions: tokenizing, metrics, the cluster.
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "boost/json/array.hpp"
#include "tests/gateway/openai/api_fixture.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

class RoutesTest : public ApiFixture {
 protected:
  json::value Tokenize(const std::string& body) { return Complete(body, "/tokenize"); }

  // The value of a series, as "name{labels}"; -1: there is none.
  double Metric(const std::string& series) {
    const ClientResponse response = Call("GET", "/metrics");
    EXPECT_EQ(response.status, 200);
    for (const absl::string_view line : absl::StrSplit(response.body, '\n')) {
      double value = 0;
      if (absl::StartsWith(line, series + " ") &&
          absl::SimpleAtod(line.substr(series.size() + 1), &value)) {
        return value;
      }
    }
    return -1;
  }
};

TEST_F(RoutesTest, TokenizesPrompts) {
  const json::value answer = Tokenize(R"({"prompt": "hi\n", "return_token_strs": true})");
  EXPECT_EQ(answer.at("count"), 3);
  EXPECT_EQ(answer.at("max_model_len"), kMaxLen);
  EXPECT_EQ(answer.at("tokens").as_array().size(), 3u);
  EXPECT_EQ(answer.at("token_strs"), json::value({"h", "i", "\n"}));
  EXPECT_TRUE(Tokenize(R"({"prompt": "hi"})").at("token_strs").is_null());
  // And back, special tokens as well.
  const json::value back =
      Complete(json::serialize(json::object{{"tokens", answer.at("tokens")}}), "/detokenize");
  EXPECT_EQ(back.at("prompt"), "hi\n");
  const json::value special =
      Complete(absl::StrCat(R"({"tokens": [)", kTestImStart, "]}"), "/detokenize");
  EXPECT_EQ(special.at("prompt"), "<|im_start|>");
  EXPECT_EQ(Complete(R"({"tokens": []})", "/detokenize").at("prompt"), "");
}

TEST_F(RoutesTest, CountsAsCompletionsDo) {
  const std::string prompts[] = {R"("prompt": "lead # # passage # # why")", R"("prompt": "plain")",
                                 R"("prompt": ["x", "y"])",
                                 R"("prompt": [{"type": "text", "text": "a"}, {"type": "text",
                                    "text": "b"}])"};
  for (const std::string& prompt : {prompts[0], prompts[1], prompts[3]}) {
    const json::value used = Complete("{" + prompt + "}");
    EXPECT_EQ(Tokenize("{" + prompt + "}").at("count"), used.at("usage").at("prompt_tokens"))
        << prompt;
  }
  const std::string chats[] = {
      R"("messages": [{"role": "user", "content": "hi # # there"}])",
      R"("messages": [{"role": "user", "content": "hi"}], "documents": ["one", {"title": "T",
         "text": "two"}])",
      R"("messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": false)"};
  for (const std::string& chat : chats) {
    const json::value used = Complete("{" + chat + "}", kChat);
    EXPECT_EQ(Tokenize("{" + chat + "}").at("count"), used.at("usage").at("prompt_tokens")) << chat;
  }
  // More than the model takes can still be counted.
  EXPECT_EQ(Tokenize(R"({"prompt": ")" + std::string(1000, 'x') + R"("})").at("count"), 1000);
}

TEST_F(RoutesTest, ABosIsLeftOutOnRequest) {
  text_.completion_bos = kTestImStart;
  EXPECT_EQ(Tokenize(R"({"prompt": "x"})").at("tokens").at(0), kTestImStart);
  EXPECT_EQ(Tokenize(R"({"prompt": "x"})").at("count"), 2);
  EXPECT_EQ(Tokenize(R"({"prompt": "x", "add_special_tokens": false})").at("count"), 1);
}

TEST_F(RoutesTest, BadTokenizeBodies) {
  for (const char* body : {"", "{}", R"({"prompt": 5})", R"({"messages": []})", R"({"prompt": ""})",
                           R"({"prompt": "x", "messages": [{"role": "user", "content": "x"}]})",
                           R"({"prompt": ["a", "b"]})", R"({"prompt": "a # # "})",
                           R"({"prompt": "x", "return_token_strs": 1})"}) {
    Refused(400, body, "/tokenize");
  }
  Refused(400, R"({"prompt": ")" + std::string(5 << 20, 'x') + R"("})", "/tokenize");
  EXPECT_EQ(Refused(404, R"({"prompt": "x", "model": "other"})", "/tokenize").at("code"),
            "model_not_found");
  for (const char* body : {"{}", R"({"tokens": "x"})", R"({"tokens": [-1]})",
                           R"({"tokens": [258]})", R"({"tokens": [4294967296]})"}) {
    EXPECT_EQ(Refused(400, body, "/detokenize").at("param"), "tokens") << body;
  }
  EXPECT_EQ(Call("GET", "/tokenize").headers.at("allow"), "POST");
}

TEST_F(RoutesTest, HeadIsAnsweredWhereGetIs) {
  for (const char* path :
       {"/health", "/ping", "/version", "/v1/models", "/v1/models/stub", "/metrics", "/cluster"}) {
    TestClient client(server_->port());
    ASSERT_TRUE(client.SendRequest("HEAD", path));
    EXPECT_EQ(client.Receive(/*head_only=*/true)->status, 200) << path;
    EXPECT_EQ(Call("PUT", path).headers.at("allow"), "GET, HEAD");
  }
}

TEST_F(RoutesTest, ShowsTheCluster) {
  const json::value cluster = json::parse(Call("GET", "/cluster").body);
  EXPECT_EQ(cluster.at("ready"), true);
  EXPECT_TRUE(cluster.at("cache").is_null());
  const json::value& worker = cluster.at("workers").at(0);
  EXPECT_EQ(json::value_to<std::string>(worker.at("address")), worker_->address());
  EXPECT_EQ(worker.at("state"), "ready");
  EXPECT_EQ(worker.at("model"), "stub");
  EXPECT_EQ(worker.at("in_flight"), 0);
  EXPECT_EQ(worker.at("running"), 3);
  EXPECT_EQ(worker.at("waiting"), 2);
  EXPECT_EQ(worker.at("max_model_len"), kMaxLen);
  EXPECT_EQ(cluster.at("prompt_tokens").at("computed"), 0);
  Complete(R"({"prompt": "hello"})");
  const json::value used = json::parse(Call("GET", "/cluster").body).at("prompt_tokens");
  EXPECT_EQ(used.at("blended"), 1);
  EXPECT_EQ(used.at("computed"), 4);
  worker_.reset();
  AwaitReady(false);
  const json::value down = json::parse(Call("GET", "/cluster").body);
  EXPECT_EQ(down.at("ready"), false);
  EXPECT_EQ(down.at("workers").at(0).at("state"), "down");
  EXPECT_TRUE(down.at("workers").at(0).at("running").is_null());
}

TEST_F(RoutesTest, CountsWhatCompletionsUse) {
  const ClientResponse first = Call("GET", "/metrics");
  EXPECT_EQ(first.headers.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  Complete(R"({"prompt": "hello", "max_tokens": 3})");
  Complete(R"({"prompt": "hello"})");
  Refused(400, R"({"prompt": ""})");
  const std::string model = R"({model_name="stub"})";
  EXPECT_EQ(Metric("tessera_prompt_tokens_total" + model), 10);
  EXPECT_EQ(Metric("tessera_generation_tokens_total" + model), 9);
  EXPECT_EQ(Metric("tessera_prefix_cache_queries_total" + model), 10);
  EXPECT_EQ(Metric("tessera_prefix_cache_hits_total" + model), 2);
  EXPECT_EQ(Metric(R"(tessera_prompt_kv_tokens_total{model_name="stub",source="blended"})"), 2);
  EXPECT_EQ(Metric(R"(tessera_prompt_kv_tokens_total{model_name="stub",source="computed"})"), 8);
  EXPECT_EQ(Metric(R"(tessera_request_success_total{model_name="stub",finished_reason="length"})"),
            1);
  EXPECT_EQ(Metric(R"(tessera_request_success_total{model_name="stub",finished_reason="stop"})"),
            1);
  for (const char* histogram :
       {"time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
        "request_prefill_time_seconds", "request_decode_time_seconds", "request_prompt_tokens",
        "request_generation_tokens"}) {
    EXPECT_EQ(Metric(absl::StrCat("tessera_", histogram, "_count", model)), 2) << histogram;
  }
  EXPECT_EQ(Metric("tessera_request_prompt_tokens_sum" + model), 10);
  EXPECT_EQ(Metric("tessera_inter_token_latency_seconds_count" + model), 7);
  EXPECT_EQ(Metric("tessera_num_requests_running" + model), 0);
  EXPECT_EQ(Metric("tessera_num_requests_waiting" + model), 0);
  const auto requests = [this](const char* outcome) {
    return Metric(absl::StrCat("tessera_gateway_request_seconds_count{outcome=\"", outcome,
                               "\",route=\"completions\"}"));
  };
  EXPECT_EQ(requests("ok"), 2);
  EXPECT_EQ(requests("invalid"), 1);
  EXPECT_EQ(Metric(R"(tessera_gateway_time_to_first_token_seconds_count)"
                   R"({reuse="0-50",route="completions"})"),
            2);
  EXPECT_EQ(Metric(R"(tessera_gateway_inter_token_seconds_count{route="completions"})"), 7);
  EXPECT_EQ(Metric(R"(tessera_http_requests_total{route="/v1/completions",code="200"})"), 2);
  EXPECT_EQ(Metric(R"(tessera_http_requests_total{route="/v1/completions",code="400"})"), 1);
  EXPECT_EQ(Metric(absl::StrCat(R"(tessera_worker_ready{worker=")", worker_->address(), "\"}")), 1);
  Call("GET", "/no/such/route");
  EXPECT_EQ(Metric(R"(tessera_http_requests_total{route="other",code="404"})"), 1);
  // Not without being asked.
  EXPECT_FALSE(absl::StrContains(Call("GET", "/metrics").body, "vllm:"));
}

TEST_F(RoutesTest, SeesRequestsThatRun) {
  worker_->Set({.hold_after = 1});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("POST", kCompletions, R"({"prompt": "hello"})"));
  ASSERT_TRUE(worker_->AwaitCalls(1));
  EXPECT_EQ(Metric(R"(tessera_num_requests_running{model_name="stub"})"), 1);
  client.Close();
  ASSERT_TRUE(worker_->AwaitCancelled(1));
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  const char running[] = R"(tessera_num_requests_running{model_name="stub"})";
  while (Metric(running) != 0 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(Metric(running), 0);
}

TEST_F(RoutesTest, VllmsNamesOnRequest) {
  ApiOptions options;
  options.vllm_metric_names = true;
  StartGateway(options);
  AwaitReady(true);
  Complete(R"({"prompt": "hello", "max_tokens": 3})");
  const std::string model = R"({model_name="stub"})";
  for (const std::string prefix : {"tessera_", "vllm:"}) {
    EXPECT_EQ(Metric(prefix + "prompt_tokens_total" + model), 5);
    EXPECT_EQ(Metric(prefix + "num_requests_running" + model), 0);
    EXPECT_EQ(Metric(prefix + "time_to_first_token_seconds_count" + model), 1);
    EXPECT_EQ(
        Metric(prefix + R"(request_success_total{model_name="stub",finished_reason="length"})"), 1);
  }
}

}  // namespace
}  // namespace tessera::openai
