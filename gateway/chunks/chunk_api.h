// The chunk API: texts computed ahead, kept in the cache server, and named in prompts by id.
#ifndef TESSERA_GATEWAY_CHUNKS_CHUNK_API_H_
#define TESSERA_GATEWAY_CHUNKS_CHUNK_API_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/thread_pool.h"
#include "gateway/chunks/cache_calls.h"
#include "gateway/chunks/chunk_records.h"
#include "gateway/chunks/ingest.h"
#include "gateway/http/handler.h"
#include "gateway/openai/chunk_texts.h"
#include "gateway/openai/task.h"

namespace tessera::openai {

struct ChunkApiOptions {
  const ModelText* text = nullptr;
  // Those that prompts are cut with.
  SegmenterOptions segmenter;
  WorkerPool* workers = nullptr;
  // Null: this gateway has no cache, and every call says so.
  CacheCalls* cache = nullptr;
  // Threads that tokenize texts and wait for the cache server: apart from those that prepare
  // prompts, so that a thousand texts hold up no answer.
  size_t threads = 2;
  // Requests to store texts that run at a time, texts of one, and what of them runs at a time; past
  // the first two, 429 and 400.
  size_t max_ingests = 16;
  size_t max_texts = 1024;
  size_t lanes_per_worker = 2;
  size_t max_lanes = 16;
  // All other calls of this API that wait or run; past it, 429.
  size_t max_calls = 256;
  // For one text, in its worker's queue and there.
  absl::Duration prefill_timeout = absl::Minutes(10);
};

// Routes: GET and POST /v1/chunks, GET and DELETE /v1/chunks/{id}, POST and DELETE
// /v1/chunks/{id}/pin. Thread-safe. Must outlive all works, whose end it awaits.
class ChunkApi final : public ChunkTexts {
 public:
  // `charge` hears of the tokens that a caller had stored; may be null.
  ChunkApi(const ChunkApiOptions& options,
           std::function<void(size_t caller, uint64_t tokens)> charge);

  // The route of a path, with {id} in place of an id; empty for a path that is none of its own.
  static std::string_view RouteOf(std::string_view path);
  // Of a route, comma-separated.
  static std::string_view MethodsOf(std::string_view route);

  // Answers a request to one of the routes with one of its methods. As http::Handler::Handle.
  std::unique_ptr<http::Work> Handle(http::Request request, std::string request_id, size_t caller,
                                     http::Reply& reply);

  // Answers with what `answer` returns, on a thread that may wait for the cache server.
  std::unique_ptr<http::Work> Run(Task::Answer answer, http::Reply& reply);

  absl::StatusOr<std::string> TextOf(std::string_view id, std::string_view salt) override;

  bool has_cache() const { return options_.cache != nullptr; }

  const IngestTotals& totals() const { return totals_; }

 private:
  absl::StatusOr<http::Response> Answer(const http::Request& request);
  absl::StatusOr<http::Response> List(const http::Request& request);
  absl::StatusOr<http::Response> Get(const std::string& key, const std::string& salt);
  absl::StatusOr<http::Response> Delete(const std::string& key, const std::string& salt);
  absl::StatusOr<http::Response> Pin(const std::string& key, const std::string& salt,
                                     absl::Duration ttl);
  absl::StatusOr<http::Response> Unpin(const std::string& key, const std::string& salt);
  // With the code chunk_not_found where that is the error.
  absl::StatusOr<chunks::v1::ChunkRecord> Find(const std::string& key, std::string_view salt);

  const ChunkApiOptions options_;
  IngestTotals totals_;
  std::atomic<size_t> open_calls_{0};
  ChunkRecords records_;  // of no use without a cache
  IngestContext ingest_;
  ThreadPool threads_;  // last: what it runs uses all of the above
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_CHUNKS_CHUNK_API_H_
