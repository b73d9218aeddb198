// POST /v1/chunks: texts are computed ahead and stored.
#ifndef TESSERA_GATEWAY_CHUNKS_INGEST_H_
#define TESSERA_GATEWAY_CHUNKS_INGEST_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/thread_pool.h"
#include "boost/json/object.hpp"
#include "gateway/chunks/cache_calls.h"
#include "gateway/chunks/chunk_records.h"
#include "gateway/chunks/chunk_request.h"
#include "gateway/http/handler.h"
#include "gateway/router/worker_pool.h"
#include "gateway/text/model_text.h"
#include "gateway/text/segmenter.h"

namespace tessera::openai {

// Since the start.
struct IngestTotals {
  std::atomic<uint64_t> open{0};  // requests that run now
  std::atomic<uint64_t> stored{0};
  std::atomic<uint64_t> failed{0};
  std::atomic<uint64_t> tokens{0};  // of what was stored
  std::atomic<uint64_t> cached_tokens{0};
};

// What all ingests share. Everything outlives them.
struct IngestContext {
  const ModelText* text = nullptr;
  SegmenterOptions segmenter;
  WorkerPool* workers = nullptr;
  CacheCalls* cache = nullptr;
  // Has room for one task of every lane of every ingest.
  ThreadPool* threads = nullptr;
  IngestTotals* totals = nullptr;
  // Hears of the tokens that a caller had stored.
  std::function<void(size_t caller, uint64_t tokens)> charge;
  size_t max_texts = 1024;
  // Texts of one request that are worked on at a time.
  size_t lanes_per_worker = 2;
  size_t max_lanes = 16;
  // For one text, in its worker's queue and there.
  absl::Duration prefill_timeout = absl::Minutes(10);
};

// Lanes work side by side, each on one text after the other: it tokenizes, has a worker compute and
// store it, and stores, pins and flushes its record. All of that runs on `threads`, but for the
// worker's callback, which only hands over. A text that failed is an entry of the answer and stops
// no other. What was done stays done when the client leaves.
class Ingest final : public http::Work {
 public:
  // `context` and `reply` must outlive it. It was counted in `totals->open`, and takes that back at
  // its end.
  Ingest(const IngestContext& context, http::Request request, std::string request_id, size_t caller,
         http::Reply* reply);
  ~Ingest() override;

  // Parses, and starts the lanes; or answers with an error. On a thread of the pool, once. The
  // object may be gone when this returns.
  void Run();

  void Cancel() override;

  // Answers with an error instead of running. The object may be gone when this returns.
  void Refuse(const absl::Status& status);

 private:
  struct Stored {
    std::string id;
    uint32_t tokens = 0;
    uint64_t bytes = 0;
    uint32_t cached_tokens = 0;
    int64_t created = 0;
    absl::Time pinned_until = absl::InfinitePast();
    absl::Status pin = absl::OkStatus();  // why it is not pinned although it was to be
    bool durable = false;
  };
  // A text's end.
  using Outcome = absl::StatusOr<Stored>;

  absl::Status Start();
  // One more text for that lane, or its end.
  void Next(size_t lane);
  // Asks a worker; an error when nobody will call back.
  absl::Status Prefill(size_t lane, size_t index);
  void OnPrefilled(size_t lane, size_t index,
                   absl::StatusOr<worker::v1::PrefillChunkResponse> response);
  Outcome Keep(size_t index, const absl::StatusOr<worker::v1::PrefillChunkResponse>& response);
  void PinAndFlush(const chunks::v1::ChunkRecord& record, Stored* stored);
  void SetOutcome(size_t index, Outcome outcome) ABSL_LOCKS_EXCLUDED(mutex_);
  void StopLanes() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndLane() ABSL_LOCKS_EXCLUDED(mutex_);

  // The following describe what SetOutcome left.
  boost::json::object Shown(size_t index, bool whole) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  boost::json::object List(bool whole) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The error that all texts ended with; OK when they did not.
  absl::Status CommonError() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  http::Response Answer() ABSL_LOCKS_EXCLUDED(mutex_);
  void Log() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const IngestContext& context_;
  const std::string request_id_;
  const size_t caller_;
  http::Reply* const reply_;
  const absl::Time arrived_ = absl::Now();
  http::Request http_request_;

  // Start only writes these. A text belongs to the lane that took it.
  IngestRequest request_;
  std::optional<worker::v1::GetModelResponse> model_;
  ChunkRecords records_;

  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  size_t next_text_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t open_lanes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<WorkerCall>> calls_ ABSL_GUARDED_BY(mutex_);  // by lane
  std::vector<std::optional<Outcome>> outcomes_ ABSL_GUARDED_BY(mutex_);    // by text
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_CHUNKS_INGEST_H_
