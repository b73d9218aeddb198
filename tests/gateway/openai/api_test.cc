#include "gateway/openai/api.h"

#include "absl/strings/match.h"
#include "tests/gateway/openai/api_fixture.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

using ApiTest = ApiFixture;

TEST_F(ApiTest, HealthFollowsTheWorker) {
  EXPECT_EQ(Call("GET", "/health").status, 200);
  const int port = worker_->port();
  worker_.reset();
  AwaitReady(false);
  EXPECT_EQ(Call("GET", "/health").status, 503);
  EXPECT_EQ(Call("GET", "/ping").status, 200);
  EXPECT_EQ(Call("GET", "/v1/models").status, 200);
  EXPECT_EQ(Call("GET", "/v1/models/stub").status, 503);
  EXPECT_EQ(Refused(503, R"({"prompt": "x"})").at("type"), "service_unavailable_error");
  StartWorker(port);
  AwaitReady(true);
  EXPECT_EQ(Call("GET", "/health").status, 200);
}

TEST_F(ApiTest, DescribesModelAndVersion) {
  const json::value list = json::parse(Call("GET", "/v1/models").body);
  EXPECT_EQ(list.at("object"), "list");
  EXPECT_EQ(list.at("data").at(0).at("id"), "stub");
  const json::value model = json::parse(Call("GET", "/v1/models/stub").body);
  EXPECT_EQ(model.at("max_model_len"), kMaxLen);
  EXPECT_EQ(Call("GET", "/v1/models/other").status, 404);
  EXPECT_TRUE(json::parse(Call("GET", "/version").body).at("version").is_string());
}

TEST_F(ApiTest, UnknownRoutesAndMethods) {
  EXPECT_EQ(Call("GET", "/nothing").status, 404);
  EXPECT_EQ(Call("GET", "/%ff").status, 404);
  EXPECT_EQ(Call("POST", "/v1/embeddings", "{}").status, 404);
  const ClientResponse get = Call("GET", kCompletions);
  EXPECT_EQ(get.status, 405);
  EXPECT_EQ(get.headers.at("allow"), "POST");
  EXPECT_EQ(Call("DELETE", "/v1/models").status, 405);
}

TEST_F(ApiTest, CompletesAPrompt) {
  const json::value body = Complete(R"({"model": "stub", "prompt": "hello", "max_tokens": 3})");
  EXPECT_EQ(body.at("object"), "text_completion");
  EXPECT_EQ(body.at("choices").at(0).at("text"), "llo");
  EXPECT_EQ(body.at("choices").at(0).at("finish_reason"), "length");
  EXPECT_EQ(body.at("usage").at("prompt_tokens"), 5);
  EXPECT_EQ(body.at("usage").at("completion_tokens"), 3);
  EXPECT_EQ(body.at("usage").at("total_tokens"), 8);
  EXPECT_EQ(body.at("usage").at("prompt_tokens_details").at("cached_tokens"), 1);
  EXPECT_EQ(body.at("tessera").at("policy"), "query_v");
}

TEST_F(ApiTest, AnEndTokenStopsAndGivesNoText) {
  const json::value body = Complete(R"({"prompt": "hello"})");
  EXPECT_EQ(body.at("choices").at(0).at("text"), "hello");
  EXPECT_EQ(body.at("choices").at(0).at("finish_reason"), "stop");
  EXPECT_EQ(body.at("usage").at("completion_tokens"), 6);
  EXPECT_EQ(worker_->last_request().max_tokens(), 16u);
}

TEST_F(ApiTest, PassesOptionsToTheWorker) {
  Complete(R"({"prompt": "hello", "temperature": 0.5, "top_p": 0.25, "top_k": 3, "seed": 7,
               "stop_token_ids": [5], "ignore_eos": true, "cache_salt": "s",
               "tessera": {"mode": "exact", "policy": "hkvd_v", "recompute_ratio": 0.25,
                           "correction": true}})");
  const worker::v1::GenerateRequest request = worker_->last_request();
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().top_p(), 0.25f);
  EXPECT_EQ(request.sampling().top_k(), 3u);
  EXPECT_EQ(request.sampling().seed(), 7u);
  EXPECT_EQ(request.stop_token_ids(0), 5u);
  EXPECT_TRUE(request.ignore_eos());
  EXPECT_EQ(request.cache_salt(), "s");
  EXPECT_EQ(request.blend().mode(), worker::v1::EXACT);
  EXPECT_EQ(request.blend().policy(), "hkvd_v");
  EXPECT_EQ(request.blend().recompute_ratio(), 0.25f);
  EXPECT_TRUE(request.blend().correction());
}

TEST_F(ApiTest, CutsPromptsIntoSegments) {
  const json::value body =
      Complete(R"({"prompt": "lead # # first # # second # # question", "max_tokens": 4})");
  EXPECT_EQ(worker_->last_request().segments_size(), 4);
  EXPECT_EQ(body.at("choices").at(0).at("text"), "tion");
  EXPECT_EQ(body.at("tessera").at("segments").as_array().size(), 4u);
  Complete(R"({"messages": [{"role": "user", "content": "first # # second # # question"}]})",
           kChat);
  EXPECT_EQ(worker_->last_request().segments_size(), 4);
}

TEST_F(ApiTest, TakesTokenIds) {
  const json::value hello = Complete(R"({"prompt": [71, 72], "max_tokens": 2})");
  EXPECT_EQ(hello.at("usage").at("prompt_tokens"), 2);
  const auto request = worker_->last_request();
  EXPECT_EQ(request.segments(0).token_ids(0), 71u);
  EXPECT_EQ(request.segments(0).token_ids(1), 72u);
}

TEST_F(ApiTest, ChatGoesUpToTheModelsLength) {
  const json::value body =
      Complete(R"({"messages": [{"role": "user", "content": "hi"}], "model": "stub"})", kChat);
  EXPECT_EQ(body.at("object"), "chat.completion");
  EXPECT_EQ(body.at("choices").at(0).at("message").at("content"), "user\nhi\nassistant\n");
  const int64_t prompt_tokens = body.at("usage").at("prompt_tokens").as_int64();
  EXPECT_EQ(worker_->last_request().max_tokens(), kMaxLen - prompt_tokens);
}

TEST_F(ApiTest, EchoesRequestIds) {
  const ClientResponse sent =
      Call("POST", kCompletions, R"({"prompt": "x"})", "X-Request-Id: mine-1\r\n");
  EXPECT_EQ(sent.headers.at("x-request-id"), "mine-1");
  EXPECT_EQ(json::parse(sent.body).at("id"), "cmpl-mine-1");
  EXPECT_EQ(worker_->last_request().request_id(), "mine-1");
  EXPECT_EQ(Call("GET", "/health").headers.at("x-request-id").size(), 32u);
  EXPECT_EQ(Call("POST", kCompletions, "{").headers.count("x-request-id"), 1u);
}

TEST_F(ApiTest, StopStringsEndTheAnswerAndTheWork) {
  // The worker would go on after "abcde", and waits there.
  worker_->Set({.hold_after = 6});
  const json::value body = Complete(R"({"prompt": "abcdefgh", "stop": ["de", "zz"]})");
  EXPECT_EQ(body.at("choices").at(0).at("text"), "abc");
  EXPECT_EQ(body.at("choices").at(0).at("finish_reason"), "stop");
  EXPECT_TRUE(worker_->AwaitCancelled(1));
}

TEST_F(ApiTest, WorkerErrorsBecomeHttpErrors) {
  const auto refused = [&](absl::Status failure, int status) {
    worker_->Set({.fail_after = 0, .failure = std::move(failure)});
    const json::object error = Refused(status, R"({"prompt": "x"})");
    EXPECT_TRUE(absl::StrContains(std::string(error.at("message").as_string()), "why"));
    // A stream that has not begun is refused in the same way.
    Refused(status, R"({"prompt": "x", "stream": true})");
  };
  refused(absl::InvalidArgumentError("why"), 400);
  refused(absl::ResourceExhaustedError("why"), 429);
  refused(absl::InternalError("why"), 500);
  EXPECT_EQ(Call("POST", kCompletions, R"({"prompt": "x"})").status, 500);
  refused(absl::ResourceExhaustedError("why"), 429);
  EXPECT_EQ(Call("POST", kCompletions, R"({"prompt": "x"})").headers.at("retry-after"), "1");
  worker_->Set({.fail_after = 3, .failure = absl::InternalError("midway")});
  EXPECT_EQ(Refused(500, R"({"prompt": "abcdef"})").at("type"), "server_error");
}

TEST_F(ApiTest, AnUnavailableWorkerIs503) {
  worker_->Set({.fail_after = 0, .failure = absl::UnavailableError("stopping")});
  Refused(503, R"({"prompt": "x"})");
}

TEST_F(ApiTest, ATimeoutIs504) {
  ApiOptions options;
  options.completion.timeout = absl::Milliseconds(200);
  StartGateway(options);
  AwaitReady(true);
  worker_->Set({.hold_after = 2});
  EXPECT_EQ(Refused(504, R"({"prompt": "abcdef"})").at("type"), "timeout_error");
}

TEST_F(ApiTest, AFullQueueIs429) {
  ApiOptions options;
  options.max_queued = 0;
  StartGateway(options);
  AwaitReady(true);
  EXPECT_EQ(Refused(429, R"({"prompt": "x"})").at("type"), "rate_limit_error");
}

TEST_F(ApiTest, AClientThatLeavesCancelsTheWorker) {
  worker_->Set({.hold_after = 2});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("POST", kCompletions, R"({"prompt": "abcdef"})"));
  ASSERT_TRUE(worker_->AwaitCalls(1));
  client.Close();
  EXPECT_TRUE(worker_->AwaitCancelled(1));
}

TEST_F(ApiTest, LengthIsCheckedWithMaxTokens) {
  const std::string prompt(150, 'x');
  const auto refused = [&](const std::string& rest) {
    return Refused(400, R"({"prompt": ")" + prompt + "\"" + rest + "}");
  };
  EXPECT_EQ(refused(R"(, "max_tokens": 51)").at("code"), "context_length_exceeded");
  Complete(R"({"prompt": ")" + prompt + R"(", "max_tokens": 50})");
  EXPECT_EQ(worker_->last_request().max_tokens(), 50u);
  // The default is cut down to what fits.
  Complete(R"({"prompt": ")" + std::string(195, 'x') + R"("})");
  EXPECT_EQ(worker_->last_request().max_tokens(), 5u);
  for (const size_t size : {size_t{200}, size_t{5000}, size_t{10} << 20}) {
    const json::object error = Refused(400, R"({"prompt": ")" + std::string(size, 'x') + R"("})");
    EXPECT_EQ(error.at("code"), "context_length_exceeded");
    EXPECT_TRUE(absl::StrContains(std::string(error.at("message").as_string()), "200"));
  }
}

TEST_F(ApiTest, BadInputsLeaveItServing) {
  const std::string wrong[] = {"",
                               "{",
                               "[1]",
                               R"({"prompt": ""})",
                               R"({"prompt": " # #  # # "})",
                               R"({"prompt": " # # a"})",
                               R"({"prompt": "a # # "})",
                               R"({"prompt": "a # #  # # b"})",
                               R"({"prompt": " # # "})",
                               R"({"prompt": 5})",
                               R"({"prompt": ["a", 5]})",
                               R"({"prompt": [999]})",
                               "{\"prompt\": \"\xff\"}",
                               R"({"prompt": "x", "max_tokens": "y"})",
                               R"({"prompt": "x", "tessera": {"recompute_ratio": 2}})",
                               R"({"prompt": "x", "tessera": {"policy": "best"}})",
                               R"({"prompt": "x", "n": 129})"};
  for (const std::string& body : wrong) {
    EXPECT_EQ(Refused(400, body).at("type"), "invalid_request_error") << body;
  }
  EXPECT_EQ(Refused(404, R"({"prompt": "x", "model": "other"})").at("code"), "model_not_found");
  Refused(413, R"({"prompt": ")" + std::string(17 << 20, 'x') + R"("})");
  Refused(400, R"({"messages": [{"role": "user", "content": " # # "}]})", kChat);
  Refused(400, R"({"messages": []})", kChat);
  EXPECT_EQ(worker_->calls(), 0);
  Complete(R"({"prompt": "still here"})");
}

}  // namespace
}  // namespace tessera::openai
