// What one request does with its worker calls: several prompts, several answers, ends and failures.
#include "gateway/openai/completion.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "tests/gateway/openai/parse_request.h"
#include "tests/gateway/openai/stream_fixture.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

// Keeps what it is told.
class Recorder final : public CompletionObserver {
 public:
  void OnAccepted() override {
    absl::MutexLock lock(&mutex_);
    ++accepted_;
  }
  void OnNextToken(Endpoint endpoint, absl::Duration gap) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_GE(gap, absl::ZeroDuration());
    ++gaps_;
  }
  void OnFinished(const CompletionReport& report) override {
    absl::MutexLock lock(&mutex_);
    reports_.push_back(report);
  }

  int accepted() const {
    absl::MutexLock lock(&mutex_);
    return accepted_;
  }
  int gaps() const {
    absl::MutexLock lock(&mutex_);
    return gaps_;
  }
  // The report that came last, once that many have; the test fails when they do not come.
  CompletionReport Await(size_t count) const {
    absl::MutexLock lock(&mutex_);
    auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return reports_.size() >= count; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(30)));
    return reports_.empty() ? CompletionReport() : reports_.back();
  }

 private:
  mutable absl::Mutex mutex_;
  int accepted_ ABSL_GUARDED_BY(mutex_) = 0;
  int gaps_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<CompletionReport> reports_ ABSL_GUARDED_BY(mutex_);
};

class CompletionTest : public StreamFixture {
 protected:
  CompletionTest() {
    context_.observer = &recorder_;
    context_.chunk_texts = &chunk_texts_;
  }

  // The server ends before what it reports to.
  void TearDown() override { server_.reset(); }

  // The text of segment `index` of the last request.
  std::string Segment(int index) const {
    const auto ids = worker_->last_request().segments(index).token_ids();
    return text_.tokenizer->Decode(std::vector<uint32_t>(ids.begin(), ids.end()), false);
  }

  Recorder recorder_;
  FixedChunkTexts chunk_texts_;
};

TEST_F(CompletionTest, PassesEveryParameterOn) {
  const ClientResponse response = Post(
      kCompletions,
      R"({"prompt": "hello", "n": 2, "min_p": 0.5, "presence_penalty": 1, "frequency_penalty": -1,
          "repetition_penalty": 1.5, "logit_bias": {"5": -100}, "min_tokens": 3, "logprobs": 4,
          "echo": true, "priority": -7, "max_tokens": 9})",
      "X-Tessera-Mode: off\r\nX-Tessera-Store: false\r\nX-Tessera-Cache-Salt: mine\r\n");
  EXPECT_EQ(response.status, 200) << response.body;
  const worker::v1::GenerateRequest request = worker_->last_request();
  EXPECT_EQ(request.n(), 2u);
  EXPECT_EQ(request.sampling().min_p(), 0.5f);
  EXPECT_EQ(request.sampling().presence_penalty(), 1.0f);
  EXPECT_EQ(request.sampling().frequency_penalty(), -1.0f);
  EXPECT_EQ(request.sampling().repetition_penalty(), 1.5f);
  EXPECT_EQ(request.sampling().logit_bias().at(5), -100.0f);
  EXPECT_EQ(request.sampling().min_tokens(), 3u);
  EXPECT_EQ(request.top_logprobs(), 4u);
  EXPECT_TRUE(request.has_prompt_logprobs());
  EXPECT_EQ(request.prompt_logprobs(), 4u);
  EXPECT_EQ(request.priority(), -7);
  EXPECT_EQ(request.blend().mode(), worker::v1::OFF);
  EXPECT_FALSE(request.blend().store());
  EXPECT_EQ(request.cache_salt(), "mine");
}

TEST_F(CompletionTest, AnswersEndEachInItsWay) {
  // Answers "xabc", "abc" and "bc", each with its end token.
  const json::value body =
      Complete(R"({"prompt": "xabc", "n": 3, "stop": "xa", "stop_token_ids": [98]})");
  const json::array& choices = body.at("choices").as_array();
  ASSERT_EQ(choices.size(), 3u);
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(choices[i].at("index"), i);
  EXPECT_EQ(choices[0].at("text"), "");
  EXPECT_EQ(choices[0].at("stop_reason"), "xa");
  EXPECT_EQ(choices[1].at("text"), "a");
  EXPECT_EQ(choices[1].at("stop_reason"), 98);
  EXPECT_EQ(choices[2].at("text"), "");
  for (const json::value& choice : choices) EXPECT_EQ(choice.at("finish_reason"), "stop");
  // Two tokens to the stop string, two and one to the stop token.
  EXPECT_EQ(body.at("usage").at("completion_tokens"), 5);
  EXPECT_EQ(body.at("usage").at("prompt_tokens"), 4);
  const json::value length = Complete(R"({"prompt": "abcd", "max_tokens": 2})");
  EXPECT_EQ(length.at("choices").at(0).at("finish_reason"), "length");
  EXPECT_TRUE(length.at("choices").at(0).at("stop_reason").is_null());
}

TEST_F(CompletionTest, ACallIsStoppedWhenAllItsAnswersAre) {
  // Started, and three tokens of each: then the worker waits, and would go on.
  worker_->Set({.hold_after = 7});
  const json::value body = Complete(R"({"prompt": "abcabcabc", "n": 2, "stop": ["c"]})");
  EXPECT_EQ(body.at("choices").at(0).at("text"), "ab");
  EXPECT_EQ(body.at("choices").at(1).at("text"), "b");
  EXPECT_TRUE(worker_->AwaitCancelled(1));
}

TEST_F(CompletionTest, SeveralPromptsAreCallsOfTheirOwn) {
  const json::value body =
      Complete(R"({"prompt": ["abc", [104, 105, 106, 107], "one # # two"], "n": 2})");
  EXPECT_EQ(worker_->calls(), 3);
  const json::array& choices = body.at("choices").as_array();
  ASSERT_EQ(choices.size(), 6u);
  const std::vector<std::string> texts = {"abc", "bc", "hijk", "ijk", "two", "wo"};
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(choices[i].at("index"), i);
    EXPECT_EQ(choices[i].at("text"), json::string(texts[i]));
  }
  EXPECT_EQ(body.at("usage").at("prompt_tokens"), 3 + 4 + 8);
  EXPECT_EQ(body.at("usage").at("completion_tokens"), 4 + 3 + 5 + 4 + 4 + 3);
  EXPECT_EQ(body.at("tessera").at("segments").as_array().size(), 4u);
  EXPECT_EQ(body.at("tessera").at("segments").at(3).at("prompt"), 2);
  const CompletionReport report = recorder_.Await(1);
  EXPECT_EQ(report.finish_reasons, (std::vector<std::string_view>(6, "stop")));
  EXPECT_EQ(report.completion_tokens, 23u);
}

TEST_F(CompletionTest, TooManyPromptsAreRefused) {
  std::string prompts = "\"a\"";
  for (int i = 1; i < 64; ++i) prompts += ", \"a\"";
  Complete("{\"prompt\": [" + prompts + "]}");
  EXPECT_EQ(Refused(400, "{\"prompt\": [" + prompts + ", \"a\"]}").at("param"), "prompt");
  EXPECT_EQ(Refused(400, R"({"prompt": ["a", "b # # "]})").at("param"), "prompt[1]");
}

TEST_F(CompletionTest, ALeavingClientCancelsEveryCall) {
  worker_->Set({.hold_after = 2});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("POST", kCompletions, R"({"prompt": ["abc", "def", "ghi"]})"));
  ASSERT_TRUE(worker_->AwaitCalls(3));
  client.Close();
  EXPECT_TRUE(worker_->AwaitCancelled(3));
  const CompletionReport report = recorder_.Await(1);
  EXPECT_EQ(report.http_status, 499);
  EXPECT_NE(report.outcome, absl::StatusCode::kOk);
  EXPECT_EQ(report.finish_reasons, (std::vector<std::string_view>(3, "abort")));
}

TEST_F(CompletionTest, ACallThatCannotStartEndsTheOthers) {
  pool_options_.max_in_flight = 2;
  StartGateway();
  worker_->Set({.hold_after = 2});
  for (const char* rest : {"", R"(, "stream": true)"}) {
    const int before = worker_->calls();
    EXPECT_EQ(
        Refused(429, absl::StrCat(R"({"prompt": ["abc", "def", "ghi"])", rest, "}")).at("type"),
        "rate_limit_error");
    EXPECT_LE(worker_->calls(), before + 2);
  }
  worker_->Set({});
  Complete(R"({"prompt": ["abc", "def"]})");
}

TEST_F(CompletionTest, OneFailureFailsTheRequest) {
  worker_->Set({.fail_after = 3, .failure = absl::InternalError("midway")});
  EXPECT_EQ(Refused(500, R"({"prompt": ["abcdef", "abcdef"]})").at("message"), "midway");
  const std::vector<Json> events =
      Stream(R"({"prompt": ["abcdef", "ghijkl"], "stream": true, "n": 2})");
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back().at("error").at("message"), "midway");
  const auto errors = std::count_if(events.begin(), events.end(), [](const Json& event) {
    return event.as_object().contains("error");
  });
  EXPECT_EQ(errors, 1);
  const CompletionReport report = recorder_.Await(2);
  EXPECT_EQ(report.http_status, 200);
  EXPECT_NE(report.outcome, absl::StatusCode::kOk);
}

TEST_F(CompletionTest, EchoRepeatsThePrompt) {
  const json::value plain = Complete(R"({"prompt": "h\u00e9llo", "echo": true, "max_tokens": 2})");
  EXPECT_EQ(plain.at("choices").at(0).at("text"), "héllolo");
  // Where separators were replaced, it is what the model gets.
  EXPECT_EQ(Complete(R"({"prompt": "one # # two", "echo": true, "max_tokens": 1})")
                .at("choices")
                .at(0)
                .at("text"),
            "one\n\ntwoo");
  EXPECT_EQ(Complete(R"({"prompt": [104, 105], "echo": true, "max_tokens": 1})")
                .at("choices")
                .at(0)
                .at("text"),
            "hii");
}

TEST_F(CompletionTest, ScoresAPromptWithoutAnswering) {
  const json::value body = Complete(
      R"({"prompt": "h\u00e9y", "echo": true, "max_tokens": 0, "logprobs": 2,
          "return_token_ids": true})");
  EXPECT_EQ(worker_->last_request().max_tokens(), 1u);
  const json::value& choice = body.at("choices").at(0);
  EXPECT_EQ(choice.at("text"), "héy");
  EXPECT_EQ(choice.at("finish_reason"), "length");
  EXPECT_TRUE(choice.at("token_ids").as_array().empty());
  EXPECT_EQ(choice.at("prompt_token_ids").as_array().size(), 4u);
  EXPECT_EQ(body.at("usage").at("completion_tokens"), 0);
  const json::value& logprobs = choice.at("logprobs");
  EXPECT_EQ(logprobs.at("tokens"), (json::array{"h", "\ufffd", "\ufffd", "y"}));
  EXPECT_EQ(logprobs.at("text_offset"), (json::array{0, 1, 1, 2}));
  EXPECT_TRUE(logprobs.at("token_logprobs").at(0).is_null());
  EXPECT_TRUE(logprobs.at("top_logprobs").at(0).is_null());
  EXPECT_LT(logprobs.at("token_logprobs").at(3).as_double(), 0.0);
  EXPECT_GE(logprobs.at("top_logprobs").at(3).as_object().size(), 2u);
  const json::value more = Complete(R"({"prompt": "hey", "echo": true, "max_tokens": 1,
                                        "logprobs": 0})");
  EXPECT_EQ(more.at("choices").at(0).at("logprobs").at("text_offset"), (json::array{0, 1, 2, 3}));
}

TEST_F(CompletionTest, AnEchoTooLongForAStreamIsRefused) {
  const std::string prompt(190, 'a');
  Complete(absl::StrCat(R"({"prompt": ")", prompt,
                        R"(", "echo": true, "logprobs": 20, "n": 16, "max_tokens": 2})"));
  const std::string message(
      Refused(400, absl::StrCat(R"({"prompt": ")", prompt,
                                R"(", "echo": true, "logprobs": 20, "n": 16, "max_tokens": 2,
                                    "stream": true})"))
          .at("message")
          .as_string());
  EXPECT_TRUE(absl::StrContains(message, "set stream to false")) << message;
}

TEST_F(CompletionTest, KeepsTheLastTokensOfAPrompt) {
  Complete(R"({"prompt": "lead # # chunk # # question", "truncate_prompt_tokens": 11})");
  ASSERT_EQ(worker_->last_request().segments_size(), 2);
  EXPECT_EQ(Segment(0), "k\n\n");
  EXPECT_EQ(Segment(1), "question");
  Complete(R"({"prompt": "lead # # chunk # # question", "truncate_prompt_tokens": 8})");
  ASSERT_EQ(worker_->last_request().segments_size(), 1);
  EXPECT_EQ(Segment(0), "question");
  Complete(R"({"prompt": "question", "truncate_prompt_tokens": 100})");
  EXPECT_EQ(Segment(0), "question");
  // As many as fit beside the answer.
  Complete(absl::StrCat(R"({"prompt": ")", std::string(500, 'x'),
                        R"(", "truncate_prompt_tokens": -1, "max_tokens": 30})"));
  EXPECT_EQ(worker_->last_request().segments(0).token_ids_size(), 170);
  EXPECT_EQ(Complete(R"({"prompt": "question", "truncate_prompt_tokens": 3, "echo": true,
                         "max_tokens": 0})")
                .at("choices")
                .at(0)
                .at("text"),
            "ion");
}

TEST_F(CompletionTest, ContinuesTheFinalMessage) {
  const std::string messages =
      R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "So"}])";
  Complete(messages + R"(, "continue_final_message": true})", kChat);
  EXPECT_EQ(Segment(0), "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nSo");
  Complete(messages + "}", kChat);
  EXPECT_TRUE(absl::EndsWith(Segment(0), "So<|im_end|>\n<|im_start|>assistant\n"));
  Refused(400, R"({"continue_final_message": true,
                   "messages": [{"role": "assistant", "content": ""}]})",
          kChat);
}

TEST_F(CompletionTest, PromptsNameChunks) {
  Complete(R"({"prompt": [{"type": "chunk", "id": "chunk-a"}, {"type": "chunk", "id": "chunk-b"},
                          {"type": "text", "text": "question"}]})");
  ASSERT_EQ(worker_->last_request().segments_size(), 3);
  EXPECT_EQ(Segment(0), "text of a\n\n");
  EXPECT_EQ(Segment(1), "text of b\n\n");
  EXPECT_EQ(Segment(2), "question");
  Complete(R"({"messages": [{"role": "user", "content": [{"type": "chunk", "id": "chunk-c"},
                                                         {"type": "text", "text": "q"}]}],
               "documents": [{"chunk_id": "chunk-a"}]})",
           kChat);
  ASSERT_EQ(worker_->last_request().segments_size(), 4);
  EXPECT_EQ(Segment(1), "text of a\n\n");
  EXPECT_EQ(Segment(2), "text of c\n\n");
  const json::object gone = Refused(404, R"({"prompt": [{"type": "chunk", "id": "chunk-gone"}]})");
  EXPECT_EQ(gone.at("code"), "chunk_not_found");
  EXPECT_EQ(gone.at("param"), "prompt[0].id");
}

TEST_F(CompletionTest, ChecksWhatDependsOnTheModel) {
  EXPECT_EQ(Refused(400, R"({"prompt": "x", "logit_bias": {"258": 1}})").at("param"), "logit_bias");
  Complete(R"({"prompt": "x", "logit_bias": {"257": 1}})");
  // Sixteen tokens are the default.
  EXPECT_EQ(Refused(400, R"({"prompt": "x", "min_tokens": 17})").at("param"), "min_tokens");
  Complete(R"({"prompt": "x", "min_tokens": 16})");
  EXPECT_EQ(Refused(400, R"({"prompt": ["x", [258]]})").at("param"), "prompt[1]");
}

TEST_F(CompletionTest, StreamsUsageOnEveryChunk) {
  const auto events = Stream(R"({"prompt": ["ab", "cd"], "stream": true,
      "stream_options": {"continuous_usage_stats": true, "include_usage": true}})");
  int64_t before = 0;
  for (const Json& event : events) {
    const int64_t tokens = event.at("usage").at("completion_tokens").as_int64();
    EXPECT_GE(tokens, before);
    before = tokens;
    EXPECT_GE(event.at("usage").at("prompt_tokens").as_int64(), 2);
  }
  EXPECT_EQ(before, 6);
  EXPECT_EQ(events.back().at("usage").at("prompt_tokens"), 4);
}

TEST_F(CompletionTest, AStreamBeginsWithoutItsFirstEvent) {
  context_.first_event_within = absl::Milliseconds(20);
  StartGateway();
  worker_->Set({.hold_after = 0});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("POST", kCompletions, R"({"prompt": "abc", "stream": true})"));
  const auto head = client.ReceiveHead();
  ASSERT_TRUE(head.has_value());
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->headers.at("content-type"), "text/event-stream; charset=utf-8");
  worker_->Release();
  std::string text;
  while (const std::optional<std::string> event = client.ReceiveEvent()) {
    if (event->empty() || event->front() != '{') continue;  // a comment, or [DONE]
    text += json::parse(*event).at("choices").at(0).at("text").as_string();
  }
  EXPECT_EQ(text, "abc");
}

TEST_F(CompletionTest, ReportsHowItWent) {
  Complete(R"({"prompt": "abcd", "max_tokens": 3, "n": 2})");
  CompletionReport report = recorder_.Await(1);
  EXPECT_EQ(recorder_.accepted(), 1);
  EXPECT_EQ(recorder_.gaps(), 4);
  EXPECT_EQ(report.endpoint, Endpoint::kCompletions);
  EXPECT_EQ(report.caller, 7u);
  EXPECT_EQ(report.http_status, 200);
  EXPECT_EQ(report.outcome, absl::StatusCode::kOk);
  EXPECT_FALSE(report.streamed);
  EXPECT_EQ(report.finish_reasons, (std::vector<std::string_view>{"length", "stop"}));
  EXPECT_EQ(report.usage.computed_tokens() + report.usage.blended_tokens(), 4u);
  EXPECT_EQ(report.completion_tokens, 6u);
  EXPECT_LE(report.ttft, report.total);
  EXPECT_EQ(report.queued, absl::Microseconds(1500));
  EXPECT_EQ(report.prefill, absl::Microseconds(2500));
  Refused(400, "{");
  report = recorder_.Await(2);
  EXPECT_EQ(recorder_.accepted(), 2);
  EXPECT_EQ(report.http_status, 400);
  EXPECT_NE(report.outcome, absl::StatusCode::kOk);
  EXPECT_TRUE(report.finish_reasons.empty());
  EXPECT_EQ(report.ttft, absl::InfiniteDuration());
}

}  // namespace
}  // namespace tessera::openai
