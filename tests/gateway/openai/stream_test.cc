#include <sys/resource.h>

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/gateway/openai/stream_fixture.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

using StreamTest = StreamFixture;

TEST_F(StreamTest, ChatStreamHasOpenAisShape) {
  const auto events = Stream(
      R"({"messages": [{"role": "user", "content": "hi"}], "stream": true,
          "stream_options": {"include_usage": true}, "model": "stub"})",
      kChat);
  ASSERT_GT(events.size(), 4u);
  EXPECT_EQ(events.front().at("choices").at(0).at("delta").at("role"), "assistant");
  std::set<std::string> heads;
  for (const json::value& event : events) {
    heads.insert(absl::StrCat(event.at("id").as_string().c_str(), " ",
                              event.at("model").as_string().c_str(), " ",
                              event.at("created").as_int64()));
    EXPECT_EQ(event.at("object"), "chat.completion.chunk");
  }
  EXPECT_EQ(heads.size(), 1u);
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    EXPECT_TRUE(events[i].at("choices").at(0).at("finish_reason").is_null());
    EXPECT_TRUE(events[i].at("usage").is_null());
  }
  EXPECT_EQ(events[events.size() - 2].at("choices").at(0).at("finish_reason"), "stop");
  const json::value& last = events.back();
  EXPECT_TRUE(last.at("choices").as_array().empty());
  EXPECT_GT(last.at("usage").at("prompt_tokens").as_int64(), 0);
  EXPECT_EQ(last.at("tessera").at("queue_ms"), 1.5);
  EXPECT_EQ(events.front().at("tessera"), last.at("tessera"));
  EXPECT_FALSE(events[1].as_object().contains("tessera"));
  EXPECT_EQ(Text(events), "user\nhi\nassistant\n");
}

TEST_F(StreamTest, WithoutIncludeUsageThereIsNone) {
  for (const json::value& event : Stream(R"({"prompt": "hello", "stream": true})")) {
    EXPECT_FALSE(event.as_object().contains("usage"));
    EXPECT_FALSE(event.as_object().contains("tessera"));
    EXPECT_EQ(event.at("choices").as_array().size(), 1u);
  }
}

TEST_F(StreamTest, EveryPromptsFirstChunkSaysWhereItsKvCameFrom) {
  const auto events = Stream(
      R"({"prompt": ["abcd", "ab"], "n": 2, "stream": true, "tessera": {"report_rows": true}})");
  std::map<int64_t, int64_t> tokens;  // of the prompt, by the choice of the chunk that says it
  for (const json::value& event : events) {
    if (!event.as_object().contains("tessera")) continue;
    const json::value& segment = event.at("tessera").at("segments").at(0);
    EXPECT_EQ(segment.at("recomputed_rows"), json::array{(json::array{1, 2})});
    tokens[event.at("choices").at(0).at("index").as_int64()] = segment.at("tokens").as_int64();
  }
  EXPECT_EQ(tokens, (std::map<int64_t, int64_t>{{0, 4}, {2, 2}}));
}

TEST_F(StreamTest, TextIsCutOnlyAtCodePoints) {
  const auto events = Stream(R"({"prompt": "é日😀!", "stream": true, "max_tokens": 50})");
  EXPECT_EQ(Text(events), "é日😀!");
  // Ten tokens, four code points: each came whole, and then the end.
  EXPECT_EQ(events.size(), 5u);
}

TEST_F(StreamTest, AHalfCodePointAtTheEndIsReplaced) {
  // The last three bytes of the last code point.
  EXPECT_EQ(Text(Stream(R"({"prompt": "a😀", "stream": true, "max_tokens": 3})")),
            "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_F(StreamTest, StopStringsAreHeldBack) {
  const auto events =
      Stream(R"({"prompt": "abcdefgh", "stream": true, "stop": "def", "max_tokens": 50})");
  EXPECT_EQ(Text(events), "abc");
  EXPECT_EQ(events.back().at("choices").at(0).at("finish_reason"), "stop");
  EXPECT_EQ(Text(Stream(R"({"prompt": "abcde", "stream": true, "stop": "def"})")), "abcde");
}

TEST_F(StreamTest, AFailureMidwayIsAnErrorEventAndDone) {
  worker_->Set({.fail_after = 3, .failure = absl::InternalError("midway")});
  const auto events = Stream(R"({"prompt": "abcdef", "stream": true})");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1].at("choices").at(0).at("text"), "b");
  EXPECT_EQ(events[2].at("error").at("message"), "midway");
  EXPECT_EQ(events[2].at("error").at("type"), "server_error");
}

TEST_F(StreamTest, AClientThatLeavesCancelsTheWorker) {
  worker_->Set({.hold_after = 3});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("POST", kCompletions, R"({"prompt": "abcdef", "stream": true})"));
  ASSERT_TRUE(client.ReceiveHead().has_value());
  ASSERT_TRUE(client.ReceiveEvent().has_value());
  client.Close();
  EXPECT_TRUE(worker_->AwaitCancelled(1));
  worker_->Set({});
  Complete(R"({"prompt": "still here"})");
}

TEST_F(StreamTest, TheConnectionServesOnAfterAStream) {
  TestClient client(server_->port());
  for (int i = 0; i < 3; ++i) {
    const auto response =
        client.Call("POST", kCompletions, R"({"prompt": "hello", "stream": true})");
    ASSERT_TRUE(response.has_value());
    EXPECT_EQ(SplitEvents(response->body).back(), "[DONE]");
  }
}

TEST_F(StreamTest, FiftyStreamsAtATime) {
  constexpr int kStreams = 50;
  // Each waits after its first token until all have begun.
  worker_->Set({.hold_after = 2});
  std::atomic<int> right = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.emplace_back([&, i] {
      const std::string prompt = absl::StrCat("stream number ", i, " says so");
      const auto events = Stream(
          absl::StrCat(R"({"prompt": ")", prompt, R"(", "stream": true, "max_tokens": 60})"));
      if (Text(events) == prompt) ++right;
    });
  }
  EXPECT_TRUE(worker_->AwaitCalls(kStreams));
  worker_->Release();
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, kStreams);
}

TEST_F(StreamTest, AThousandStreamsOnTwoThreads) {
  constexpr int kStreams = 1000;
  // Both ends of every connection are in this process.
  rlimit files = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_max < 2 * kStreams + 200) GTEST_SKIP() << "too few file descriptors allowed";
  worker_->Set({.hold_after = 2});
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<TestClient>(server_->port()));
    ASSERT_TRUE(clients.back()->SendRequest(
        "POST", kCompletions, absl::StrCat(R"({"stream": true, "prompt": "number )", i, "\"}")));
  }
  ASSERT_TRUE(worker_->AwaitCalls(kStreams));
  worker_->Release();
  for (int i = 0; i < kStreams; ++i) {
    const auto response = clients[i]->Receive();
    ASSERT_TRUE(response.has_value());
    std::vector<json::value> events;
    for (const std::string& event : SplitEvents(response->body)) {
      if (event != "[DONE]") events.push_back(json::parse(event));
    }
    EXPECT_EQ(Text(events), absl::StrCat("number ", i));
  }
}

TEST_F(StreamTest, StoppingCancelsStreams) {
  worker_->Set({.hold_after = 3});
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("POST", kCompletions, R"({"prompt": "abcdef", "stream": true})"));
  ASSERT_TRUE(client.ReceiveHead().has_value());
  server_->Stop(absl::Milliseconds(50));
  EXPECT_TRUE(worker_->AwaitCancelled(1));
}

}  // namespace
}  // namespace tessera::openai
