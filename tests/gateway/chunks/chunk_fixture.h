// The gateway with a stub worker and a real cache server. The stub stores nothing, so a test that
// needs the pieces puts them there.
#ifndef TESSERA_TESTS_GATEWAY_CHUNKS_CHUNK_FIXTURE_H_
#define TESSERA_TESTS_GATEWAY_CHUNKS_CHUNK_FIXTURE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "boost/json/array.hpp"
#include "boost/json/object.hpp"
#include "boost/json/parse.hpp"
#include "boost/json/serialize.hpp"
#include "gateway/chunks/cache_calls.h"
#include "gateway/chunks/chunk_records.h"
#include "tests/gateway/chunks/cache_bed.h"
#include "tests/gateway/openai/api_fixture.h"

namespace tessera::openai {

inline constexpr char kChunksPath[] = "/v1/chunks";

class ChunkFixture : public ApiFixture {
 protected:
  void SetUp() override {
    bed_ = CacheBed::Start();
    ApiFixture::SetUp();
    Restart({});
  }

  void TearDown() override {
    // Before the cache server, as in a process of its own.
    server_.reset();
    api_.reset();
  }

  // A new gateway with these options and the cache.
  void Restart(ApiOptions options) {
    server_.reset();
    api_.reset();
    auto calls = CacheCalls::Make({.address = bed_->address()});
    ASSERT_TRUE(calls.ok()) << calls.status();
    calls_ = *std::move(calls);
    options.chunks.cache = calls_.get();
    StartGateway(options);
    AwaitReady(true);
  }

  boost::json::object Ok(std::string_view method, const std::string& path,
                         const boost::json::object& body = {}) {
    const ClientResponse response = Call(method, path, Body(method, body));
    EXPECT_EQ(response.status, 200) << path << ": " << response.body;
    return response.status == 200 ? boost::json::parse(response.body).as_object()
                                  : boost::json::object();
  }

  // The `error` of an answer with that status.
  boost::json::object Error(int status, std::string_view method, const std::string& path,
                            const boost::json::object& body = {}) {
    const ClientResponse response = Call(method, path, Body(method, body));
    EXPECT_EQ(response.status, status) << path << ": " << response.body;
    EXPECT_EQ(response.body.find("127.0.0.1"), std::string::npos) << response.body;
    return boost::json::parse(response.body).at("error").as_object();
  }

  // The chunks that these texts became.
  boost::json::array Ingest(boost::json::array texts, boost::json::object more = {}) {
    more["texts"] = std::move(texts);
    const boost::json::object answer = Ok("POST", kChunksPath, more);
    return answer.contains("data") ? answer.at("data").as_array() : boost::json::array();
  }

  std::string IdOf(const boost::json::value& chunk) {
    return std::string(chunk.at("id").as_string());
  }
  std::string PathOf(const boost::json::value& chunk) {
    return absl::StrCat(kChunksPath, "/", IdOf(chunk));
  }

  // What a worker with a cache would have stored of that chunk.
  void PutPieces(const boost::json::value& chunk, const std::string& salt = "") {
    ChunkRecords records(calls_.get());
    const auto record = records.Get(*ParseChunkId(IdOf(chunk)), salt);
    ASSERT_TRUE(record.ok()) << record.status();
    for (const std::string& key : record->piece_keys()) {
      ASSERT_TRUE(calls_->Store(key, RecordTenant("of pieces"), "kv").ok());
    }
  }

  std::unique_ptr<CacheBed> bed_;
  std::unique_ptr<CacheCalls> calls_;

 private:
  static std::string Body(std::string_view method, const boost::json::object& body) {
    return method == "POST" ? boost::json::serialize(body) : std::string();
  }
};

}  // namespace tessera::openai

#endif  // TESSERA_TESTS_GATEWAY_CHUNKS_CHUNK_FIXTURE_H_
