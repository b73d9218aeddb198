// Texts on their way into the cache.
#include <set>

#include "absl/strings/match.h"
#include "tests/gateway/chunks/chunk_fixture.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

using IngestTest = ChunkFixture;

// What a stream says: its events without [DONE], which must be the last.
std::vector<json::object> EventsOf(const ClientResponse& response) {
  EXPECT_EQ(response.status, 200) << response.body;
  std::vector<std::string> payloads = SplitEvents(response.body);
  EXPECT_FALSE(payloads.empty());
  if (payloads.empty()) return {};
  EXPECT_EQ(payloads.back(), "[DONE]");
  payloads.pop_back();
  std::vector<json::object> events;
  for (const std::string& payload : payloads) events.push_back(json::parse(payload).as_object());
  return events;
}

json::array Texts(int count) {
  json::array texts;
  for (int i = 0; i < count; ++i) texts.emplace_back(absl::StrCat("passage number ", i));
  return texts;
}

TEST_F(IngestTest, StoresTextsInOrder) {
  json::object body;
  body["texts"] = {"first", json::object{{"title", "T"}, {"text", "second"}}};
  const json::object answer = Ok("POST", kChunksPath, body);
  EXPECT_EQ(answer.at("object"), "list");
  EXPECT_EQ(answer.at("model"), "stub");
  const json::array& chunks = answer.at("data").as_array();
  ASSERT_EQ(chunks.size(), 2u);
  // Every byte is a token: the text, and two newlines.
  EXPECT_EQ(chunks[0].at("tokens"), 7);
  EXPECT_EQ(chunks[1].at("tokens"), 10);
  EXPECT_EQ(chunks[0].at("bytes"), 7 * kStubTokenBytes);
  EXPECT_EQ(chunks[0].at("cached_tokens"), 0);
  EXPECT_TRUE(chunks[0].at("title").is_null());
  EXPECT_EQ(chunks[1].at("title"), "T");
  EXPECT_TRUE(chunks[0].at("pinned_until").is_null());
  EXPECT_EQ(chunks[0].at("object"), "chunk");
  EXPECT_EQ(answer.at("usage").at("prompt_tokens"), 17);
  EXPECT_EQ(worker_->prefills(), 2);
  // `documents` is another name for it; what is there already is not computed again.
  json::object again;
  again["documents"] = body["texts"];
  const json::object second = Ok("POST", kChunksPath, again);
  for (size_t i = 0; i < 2; ++i) {
    const json::value& chunk = second.at("data").at(i);
    EXPECT_EQ(chunk.at("id"), chunks[i].at("id"));
    EXPECT_EQ(chunk.at("created"), chunks[i].at("created"));
    EXPECT_EQ(chunk.at("cached_tokens"), chunk.at("tokens"));
  }
  EXPECT_EQ(second.at("usage").at("prompt_tokens_details").at("cached_tokens"), 17);
}

TEST_F(IngestTest, PinsAndMakesDurable) {
  const json::value chunk = Ingest({"text"})[0];
  EXPECT_EQ(chunk.at("durable"), false) << "the stub stores no pieces";
  const json::value refused = Ingest({"text"}, {{"ttl_seconds", 60}})[0];
  EXPECT_TRUE(refused.at("pinned_until").is_null());
  EXPECT_TRUE(refused.at("pin_error").at("message").is_string());
  PutPieces(chunk);
  const json::value pinned = Ingest({"text"}, {{"ttl_seconds", 60}})[0];
  EXPECT_GT(pinned.at("pinned_until").as_int64(), absl::ToUnixSeconds(absl::Now()) + 50);
  EXPECT_FALSE(pinned.as_object().contains("pin_error"));
  EXPECT_EQ(pinned.at("durable"), true);
}

TEST_F(IngestTest, AThousandPassagesShowTheirProgress) {
  json::object body;
  body["texts"] = Texts(1000);
  body["stream"] = true;
  const std::vector<json::object> events =
      EventsOf(Call("POST", kChunksPath, json::serialize(body)));
  ASSERT_EQ(events.size(), 1001u);
  std::set<std::string> ids;
  for (size_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(events[i].at("object"), "chunk.progress");
    EXPECT_EQ(events[i].at("done"), i + 1);
    EXPECT_EQ(events[i].at("total"), 1000);
    ids.insert(IdOf(events[i].at("chunk")));
  }
  EXPECT_EQ(ids.size(), 1000u);
  const json::object& last = events.back();
  EXPECT_EQ(last.at("object"), "list");
  EXPECT_EQ(last.at("failed"), 0);
  ASSERT_EQ(last.at("data").as_array().size(), 1000u);
  for (size_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(last.at("data").at(i).at("index"), i);
    EXPECT_TRUE(ids.contains(IdOf(last.at("data").at(i))));
  }
  // The second time all of it is there. Not streamed, too.
  const json::array again = Ingest(Texts(1000));
  ASSERT_EQ(again.size(), 1000u);
  for (const json::value& chunk : again) EXPECT_EQ(chunk.at("cached_tokens"), chunk.at("tokens"));
}

TEST_F(IngestTest, AFailedTextStopsNoOther) {
  const json::array chunks =
      Ingest({"good", "two # # texts", std::string(kMaxLen, 'x'), " \n", "better"});
  ASSERT_EQ(chunks.size(), 5u);
  EXPECT_TRUE(chunks[0].at("id").is_string());
  EXPECT_TRUE(chunks[4].at("id").is_string());
  for (const size_t failed : {1u, 2u, 3u}) {
    EXPECT_TRUE(chunks[failed].at("id").is_null());
    EXPECT_EQ(chunks[failed].at("error").at("param").as_string(),
              absl::StrCat("texts[", failed, "]"));
  }
  EXPECT_EQ(chunks[2].at("error").at("code"), "context_length_exceeded");
  EXPECT_EQ(Ok("GET", kChunksPath).at("data").as_array().size(), 2u);
  // When none is left, the request has failed.
  EXPECT_EQ(Error(400, "POST", kChunksPath, {{"texts", {"two # # texts"}}}).at("param"),
            "texts[0]");
}

TEST_F(IngestTest, SaysWhyNoWorkerWouldCompute) {
  const auto failing = [&](absl::Status status) { worker_->Set({.prefill_failure = status}); };
  failing(absl::FailedPreconditionError("blending is off here"));
  const json::object off = Error(400, "POST", kChunksPath, {{"texts", {"x", "y"}}});
  EXPECT_EQ(off.at("code"), "chunks_unavailable");
  EXPECT_TRUE(absl::StrContains(std::string(off.at("message").as_string()), "blending is off"));
  failing(absl::ResourceExhaustedError("full"));
  Error(429, "POST", kChunksPath, {{"texts", {"x"}}});
  failing(absl::UnavailableError("at 127.0.0.1:1"));
  Error(503, "POST", kChunksPath, {{"texts", {"x"}}});
}

TEST_F(IngestTest, AClientThatLeavesStopsWhatRuns) {
  Ingest({"kept"});
  worker_->Set({.hold_prefill = true});
  for (const bool stream : {false, true}) {
    TestClient client(server_->port());
    const json::object body = {{"texts", Texts(50)}, {"stream", stream}};
    ASSERT_TRUE(client.SendRequest("POST", kChunksPath, json::serialize(body)));
    // Two at a time, for one worker.
    const int before = worker_->prefills();
    ASSERT_TRUE(worker_->AwaitPrefills(stream ? 5 : 3));
    client.Close();
    EXPECT_TRUE(worker_->AwaitCancelled(stream ? 4 : 2));
    EXPECT_LE(worker_->prefills(), before + 2);
  }
  worker_->Set({});
  EXPECT_EQ(Ok("GET", kChunksPath).at("data").as_array().size(), 1u);
  EXPECT_EQ(Ingest(Texts(3)).size(), 3u);
}

TEST_F(IngestTest, OnlySoManyAtATime) {
  ApiOptions options;
  options.chunks.max_ingests = 1;
  options.chunks.max_texts = 2;
  Restart(options);
  EXPECT_EQ(Error(400, "POST", kChunksPath, {{"texts", {"a", "b", "c"}}}).at("param"), "texts");
  worker_->Set({.hold_prefill = true});
  TestClient first(server_->port());
  ASSERT_TRUE(first.SendRequest("POST", kChunksPath, R"({"texts": ["a"]})"));
  ASSERT_TRUE(worker_->AwaitPrefills(1));
  const ClientResponse refused = Call("POST", kChunksPath, R"({"texts": ["b"]})");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  // Other calls go on.
  Ok("GET", kChunksPath);
  worker_->Release();
  EXPECT_EQ(first.Receive()->status, 200);
}

TEST_F(IngestTest, BadBodies) {
  for (const char* body :
       {"", "{", "[]", "{}", R"({"texts": []})", R"({"texts": "x"})", R"({"texts": [5]})",
        R"({"texts": [""]})", R"({"texts": [{}]})", R"({"texts": [{"text": 5}]})",
        R"({"texts": [{"title": "T"}]})", R"({"texts": ["x"], "documents": ["x"]})",
        R"({"documents": {}})", R"({"texts": ["x"], "ttl_seconds": -1})",
        R"({"texts": ["x"], "ttl_seconds": 0})", R"({"texts": ["x"], "ttl_seconds": "1"})",
        R"({"texts": ["x"], "stream": 1})", R"({"texts": ["x"], "cache_salt": 1})",
        "{\"texts\": [\"\xff\"]}"}) {
    EXPECT_EQ(Call("POST", kChunksPath, body).status, 400) << body;
  }
  EXPECT_EQ(Error(404, "POST", kChunksPath, {{"texts", {"x"}}, {"model", "other"}}).at("code"),
            "model_not_found");
  EXPECT_EQ(worker_->prefills(), 0);
}

}  // namespace
}  // namespace tessera::openai
