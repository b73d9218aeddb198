// Chunks once they are stored: read, listed, pinned, deleted, named in prompts.
#include <fstream>
#include <set>

#include "absl/strings/match.h"
#include "tests/gateway/chunks/chunk_fixture.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

class ChunkApiTest : public ChunkFixture {
 protected:
  // /cluster asks the cache server once a second at most.
  void AwaitReachable(bool reachable) {
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (Ok("GET", "/cluster").at("cache").at("reachable") != reachable) {
      ASSERT_LT(absl::Now(), deadline);
      absl::SleepFor(absl::Milliseconds(50));
    }
  }
};

TEST_F(ChunkApiTest, ShowsWhatIsStored) {
  const json::array chunks = Ingest({json::object{{"title", "Rivers"}, {"text", "The Rhine."}}});
  json::object shown = Ok("GET", PathOf(chunks[0]));
  EXPECT_EQ(shown.at("id"), chunks[0].at("id"));
  EXPECT_EQ(shown.at("title"), "Rivers");
  EXPECT_EQ(shown.at("text"), "The Rhine.");
  EXPECT_EQ(shown.at("tokens"), chunks[0].at("tokens"));
  EXPECT_EQ(shown.at("bytes"), chunks[0].at("bytes"));
  EXPECT_EQ(shown.at("created"), chunks[0].at("created"));
  EXPECT_EQ(shown.at("model"), "stub");
  EXPECT_TRUE(shown.at("pinned_until").is_null());
  // The stub stored nothing, and that is what is said.
  EXPECT_EQ(shown.at("cached_tokens"), 0);
  EXPECT_EQ(shown.at("pieces").at("present"), 0);
  PutPieces(chunks[0]);
  shown = Ok("GET", PathOf(chunks[0]));
  EXPECT_EQ(shown.at("cached_tokens"), shown.at("tokens"));
  EXPECT_EQ(shown.at("pieces").at("present"), 1);
}

TEST_F(ChunkApiTest, ListsInPages) {
  std::set<std::string> ids;
  for (const json::value& chunk : Ingest({"one", "two", "three", "four", "five"})) {
    ids.insert(IdOf(chunk));
  }
  std::set<std::string> listed;
  std::string after;
  int pages = 0;
  while (true) {
    const json::object page = Ok("GET", absl::StrCat(kChunksPath, "?limit=2", after));
    ++pages;
    for (const json::value& chunk : page.at("data").as_array()) listed.insert(IdOf(chunk));
    if (!page.at("has_more").as_bool()) break;
    ASSERT_EQ(page.at("data").as_array().size(), 2u);
    after = absl::StrCat("&after=", std::string(page.at("last_id").as_string()));
  }
  EXPECT_EQ(pages, 3);
  EXPECT_EQ(listed, ids);
  EXPECT_EQ(Error(400, "GET", "/v1/chunks?after=x").at("param"), "after");
  for (const char* limit : {"0", "-1", "1001", "x", ""}) {
    EXPECT_EQ(Error(400, "GET", absl::StrCat("/v1/chunks?limit=", limit)).at("param"), "limit");
  }
}

TEST_F(ChunkApiTest, SaltsSeeNothingOfEachOther) {
  const json::value a = Ingest({"text"}, {{"cache_salt", "a"}})[0];
  const json::value b = Ingest({"text"}, {{"cache_salt", "b"}})[0];
  const json::value none = Ingest({"text"})[0];
  EXPECT_NE(IdOf(a), IdOf(b));
  EXPECT_NE(IdOf(a), IdOf(none));
  for (const auto& [salt, own] : {std::pair("a", a), std::pair("b", b), std::pair("", none)}) {
    const std::string query = absl::StrCat("?cache_salt=", salt);
    const json::object list = Ok("GET", kChunksPath + query);
    ASSERT_EQ(list.at("data").as_array().size(), 1u);
    EXPECT_EQ(list.at("data").at(0).at("id"), own.at("id"));
    for (const json::value& chunk : {a, b, none}) {
      const std::string path = PathOf(chunk) + query;
      if (chunk == own) {
        Ok("GET", path);
        continue;
      }
      EXPECT_EQ(Error(404, "GET", path).at("code"), "chunk_not_found");
      Error(404, "DELETE", path);
      Error(404, "POST", PathOf(chunk) + "/pin" + query, {{"ttl_seconds", 5}});
      Error(404, "DELETE", PathOf(chunk) + "/pin" + query);
    }
  }
  const ClientResponse by_header = Call("GET", PathOf(a), "", "X-Tessera-Cache-Salt: a\r\n");
  EXPECT_EQ(by_header.status, 200) << by_header.body;
}

TEST_F(ChunkApiTest, DeletedIsGone) {
  const json::value chunk = Ingest({"text", "other"})[0];
  PutPieces(chunk);
  EXPECT_EQ(Ok("DELETE", PathOf(chunk)).at("deleted"), true);
  EXPECT_EQ(Error(404, "GET", PathOf(chunk)).at("code"), "chunk_not_found");
  EXPECT_EQ(Error(404, "DELETE", PathOf(chunk)).at("code"), "chunk_not_found");
  EXPECT_EQ(Ok("GET", kChunksPath).at("data").as_array().size(), 1u);
  // Its pieces went too.
  const json::value again = Ingest({"text"})[0];
  EXPECT_EQ(again.at("id"), chunk.at("id"));
  EXPECT_EQ(Ok("GET", PathOf(chunk)).at("cached_tokens"), 0);
}

TEST_F(ChunkApiTest, PinsAndUnpins) {
  const json::value chunk = Ingest({"text"})[0];
  const std::string pin = PathOf(chunk) + "/pin";
  const json::object ttl = {{"ttl_seconds", 60}};
  // A chunk whose pieces are not there cannot be kept there.
  EXPECT_EQ(Error(404, "POST", pin, ttl).at("code"), "chunk_not_found");
  EXPECT_TRUE(Ok("GET", PathOf(chunk)).at("pinned_until").is_null());
  PutPieces(chunk);
  const int64_t before = absl::ToUnixSeconds(absl::Now());
  const int64_t until = Ok("POST", pin, ttl).at("pinned_until").as_int64();
  EXPECT_GE(until, before + 60);
  EXPECT_LE(until, before + 90);
  EXPECT_NEAR(static_cast<double>(Ok("GET", PathOf(chunk)).at("pinned_until").as_int64()),
              static_cast<double>(until), 1);
  EXPECT_TRUE(Ok("GET", kChunksPath).at("data").at(0).at("pinned_until").is_int64());
  EXPECT_TRUE(Ok("DELETE", pin).at("pinned_until").is_null());
  EXPECT_TRUE(Ok("GET", PathOf(chunk)).at("pinned_until").is_null());
  for (const json::value& wrong : {json::value(0), json::value(-5), json::value("x")}) {
    EXPECT_EQ(Error(400, "POST", pin, {{"ttl_seconds", wrong}}).at("param"), "ttl_seconds");
  }
  EXPECT_EQ(Error(400, "POST", pin, {}).at("param"), "ttl_seconds");
  // Longer than this cache server allows.
  EXPECT_EQ(Error(400, "POST", pin, {{"ttl_seconds", 3e8}}).at("param"), "ttl_seconds");
}

TEST_F(ChunkApiTest, SegmentsAreThoseOfPrompts) {
  const json::array chunks =
      Ingest({json::object{{"title", "T"}, {"text", "first text"}}, "second text"});
  Complete(R"({"prompt": "lead # # T\nfirst text # # second text # # why", "max_tokens": 1})");
  const worker::v1::GenerateRequest written = worker_->last_request();
  ASSERT_EQ(written.segments_size(), 4);
  EXPECT_EQ(written.segments(1).token_ids_size(), chunks[0].at("tokens").to_number<int>());
  EXPECT_EQ(written.segments(2).token_ids_size(), chunks[1].at("tokens").to_number<int>());
  Complete(absl::StrCat(R"({"max_tokens": 1, "prompt": [{"type": "text", "text": "lead"},
                        {"type": "chunk", "id": ")",
                        IdOf(chunks[0]), R"("}, {"type": "chunk", "id": ")", IdOf(chunks[1]),
                        R"("}, {"type": "text", "text": "why"}]})"));
  const worker::v1::GenerateRequest named = worker_->last_request();
  ASSERT_EQ(named.segments_size(), 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(named.segments(i).SerializeAsString(), written.segments(i).SerializeAsString()) << i;
  }
  // The worker was given just these when the second text was stored.
  EXPECT_TRUE(Ingest({"second text"})[0].at("cached_tokens") == chunks[1].at("tokens"));
  EXPECT_EQ(worker_->last_prefill().segment().SerializeAsString(),
            written.segments(2).SerializeAsString());
  // In a chat, as a document.
  Complete(absl::StrCat(R"({"messages": [{"role": "user", "content": "why"}], "max_tokens": 1,
                        "documents": [{"chunk_id": ")",
                        IdOf(chunks[0]), R"("}, {"title": "T", "text": "first text"}]})"),
           kChat);
  const worker::v1::GenerateRequest chat = worker_->last_request();
  ASSERT_EQ(chat.segments_size(), 4);
  EXPECT_EQ(chat.segments(1).SerializeAsString(), written.segments(1).SerializeAsString());
  EXPECT_EQ(chat.segments(2).SerializeAsString(), written.segments(1).SerializeAsString());
}

TEST_F(ChunkApiTest, AnUnknownIdInAPromptIs404) {
  const std::string id = absl::StrCat("chunk-", std::string(64, '0'));
  const json::object error =
      Error(404, "POST", "/v1/completions", {{"prompt", {{{"type", "chunk"}, {"id", id}}}}});
  EXPECT_EQ(error.at("code"), "chunk_not_found");
  EXPECT_EQ(Error(404, "GET", absl::StrCat(kChunksPath, "/", id)).at("code"), "chunk_not_found");
  for (const std::string& wrong :
       std::vector<std::string>{"no-id", "chunk-", "chunk-00", id.substr(1)}) {
    EXPECT_EQ(Error(400, "GET", absl::StrCat(kChunksPath, "/", wrong)).at("param"), "id");
  }
  EXPECT_EQ(Error(400, "GET", absl::StrCat(kChunksPath, "/", id, "0")).at("param"), "id");
}

TEST_F(ChunkApiTest, ADamagedRecordIsAMissAndIsHealed) {
  const json::value chunk = Ingest({"text"})[0];
  bed_->Damage(RecordKey(*ParseChunkId(IdOf(chunk))));
  EXPECT_EQ(Error(404, "GET", PathOf(chunk)).at("code"), "chunk_not_found");
  EXPECT_TRUE(Ok("GET", kChunksPath).at("data").as_array().empty());
  EXPECT_EQ(Ingest({"text"})[0].at("id"), chunk.at("id"));
  EXPECT_EQ(Ok("GET", PathOf(chunk)).at("text"), "text");
}

TEST_F(ChunkApiTest, WithoutItsServerEveryCallIs503) {
  const json::value chunk = Ingest({"text"})[0];
  const json::value cache = Ok("GET", "/cluster").at("cache");
  EXPECT_EQ(cache.at("reachable"), true);
  EXPECT_EQ(cache.at("draining"), false);
  ASSERT_FALSE(cache.at("tiers").as_array().empty());
  const json::value& tier = cache.at("tiers").at(0);
  EXPECT_EQ(tier.at("name"), "ram");
  EXPECT_GT(tier.at("entries").to_number<int>(), 0);
  EXPECT_GT(tier.at("capacity_bytes").to_number<int64_t>(),
            tier.at("used_bytes").to_number<int64_t>());
  bed_->Stop();
  Error(503, "POST", kChunksPath, {{"texts", {"other"}}});
  Error(503, "GET", kChunksPath);
  Error(503, "GET", PathOf(chunk));
  Error(503, "DELETE", PathOf(chunk));
  Error(503, "POST", PathOf(chunk) + "/pin", {{"ttl_seconds", 5}});
  Error(503, "POST", "/v1/completions",
        {{"prompt", {{{"type", "chunk"}, {"id", chunk.at("id")}}}}});
  AwaitReachable(false);
  Complete(R"({"prompt": "prompts go on"})");
  bed_->StartAgain();
  // gRPC connects again within a second or so.
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (Call("GET", PathOf(chunk)).status == 503 && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  AwaitReachable(true);
  Ok("GET", PathOf(chunk));
}

TEST_F(ChunkApiTest, WithoutACacheEveryCallSaysSo) {
  server_.reset();
  StartGateway();
  AwaitReady(true);
  for (const char* method : {"GET", "POST"}) {
    const json::object error = Error(400, method, kChunksPath, {{"texts", {"x"}}});
    EXPECT_TRUE(absl::StrContains(std::string(error.at("message").as_string()), "cache"));
  }
  EXPECT_TRUE(Ok("GET", "/cluster").at("cache").is_null());
}

TEST_F(ChunkApiTest, TheTokenOfTheServerIsShown) {
  const std::string path = ::testing::TempDir() + "/cache_token";
  std::ofstream(path) << "a long secret\n";
  bed_ = CacheBed::Start("a long secret");
  Restart({});
  Error(503, "GET", kChunksPath);
  auto calls = CacheCalls::Make({.address = bed_->address(), .token_file = path});
  ASSERT_TRUE(calls.ok()) << calls.status();
  EXPECT_TRUE((*calls)->Ping().ok());
  EXPECT_TRUE((*calls)->List(RecordTenant(""), 1, "").ok());
  EXPECT_FALSE(CacheCalls::Make({.address = ""}).ok());
  EXPECT_FALSE(CacheCalls::Make({.address = "x:1", .token_file = path + ".no"}).ok());
  EXPECT_FALSE(CacheCalls::Make({.address = "x:1", .cert_file = path}).ok());
}

TEST_F(ChunkApiTest, OtherPathsAndMethods) {
  EXPECT_EQ(Call("DELETE", kChunksPath).headers.at("allow"), "GET, POST");
  EXPECT_EQ(Call("POST", "/v1/chunks/x", "{}").headers.at("allow"), "GET, DELETE");
  EXPECT_EQ(Call("GET", "/v1/chunks/x/pin").headers.at("allow"), "POST, DELETE");
  for (const char* path : {"/v1/chunks/", "/v1/chunks//pin", "/v1/chunks/x/y", "/v1/chunksx",
                           "/v1/chunks/x/pin/", "/v1/chunk"}) {
    EXPECT_EQ(Call("GET", path).status, 404) << path;
  }
}

}  // namespace
}  // namespace tessera::openai
