// Runs requests: the only thread that issues device work.
#ifndef TESSERA_GPU_WORKER_SERVE_ENGINE_H_
#define TESSERA_GPU_WORKER_SERVE_ENGINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/cancel_flag.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/resident_prefixes.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/model/kv_pool.h"
#include "gpu_worker/serve/chunk_work.h"
#include "gpu_worker/serve/chunk_writer.h"
#include "gpu_worker/serve/drift.h"
#include "gpu_worker/serve/generation.h"
#include "gpu_worker/serve/generation_run.h"
#include "gpu_worker/serve/inbox.h"
#include "gpu_worker/serve/scheduler.h"

namespace tessera {

struct EngineOptions {
  // Requests to generate that may wait.
  size_t queue = 256;
  SchedulerOptions scheduler;
  // See RankOf.
  absl::Duration priority_step = absl::Seconds(30);
  // Positions of KV memory of all requests together; at least one longest request always fits. 0:
  // eight of those.
  int64_t kv_tokens = 0;
  // Its full recomputes run, a step at a time, while nothing else is here; null: none. Must outlive
  // the engine.
  DriftSampler* drift = nullptr;
};

// How it stands.
struct EngineStats {
  size_t waiting = 0;
  size_t most_waiting = 0;  // past it requests are refused
  size_t running = 0;
  uint64_t preemptions = 0;  // since the start
  int64_t kv_blocks = 0;     // in all
  int64_t free_blocks = 0;
  int64_t idle_blocks = 0;  // that hold prefixes nobody uses now
};

// Thread-safe. One turn after the other: what the scheduler says of those that wait and run is
// carried out. What a request gets does not depend on what else runs. Chunks are computed, a piece
// at a time, while no request to generate waits or prefills.
class Engine {
 public:
  // Chunks that may wait beside the running one.
  static constexpr size_t kMostChunks = 256;

  // All must outlive the engine, which owns the blender's on_progress.
  Engine(const Decoder* decoder, Blender* blender, ChunkWriter* writer,
         const EngineOptions& options);
  // Cancels what runs and drops what waits, telling the listeners.
  ~Engine();

  // RESOURCE_EXHAUSTED when the queue is full; the listener then hears nothing.
  absl::Status Submit(std::unique_ptr<Generation> generation);
  absl::Status Submit(std::unique_ptr<ChunkWork> chunk);

  EngineStats stats() const;

 private:
  struct Run;

  template <typename Task>
  absl::Status Push(std::unique_ptr<Task> work);
  void Work();
  // False: there was nothing to do.
  bool Turn();
  void TakeArrivals();
  void TakeChunk();
  void Hold(const std::shared_ptr<CancelFlag>& flag);
  void LetGo(const std::shared_ptr<CancelFlag>& flag);
  void EraseEnded();
  // When a load is to be looked at again, though nothing was heard of it.
  absl::Time LoadsUntil() const;
  SchedulerState State() const;
  Run& Find(uint64_t id);
  void Start(Run& run);
  void Decode(const std::vector<uint64_t>& ids);
  void StepPrefill(Run& run);
  void StepChunk();
  // False: there is nothing to compare, or something else to do.
  bool StepDrift();
  void PublishStats();

  const Decoder& decoder_;
  Blender& blender_;
  ChunkWriter& writer_;
  const EngineOptions options_;
  Inbox inbox_;
  std::atomic<bool> stopping_ = false;
  mutable absl::Mutex mutex_;
  // Of all requests and the chunk that are here, for the end.
  std::vector<std::shared_ptr<CancelFlag>> flags_ ABSL_GUARDED_BY(mutex_);
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  // The rest is used by thread_ only.
  KvPool pool_;
  ResidentPrefixes prefixes_;
  uint64_t submitted_ = 0;
  std::vector<std::unique_ptr<Run>> runs_;  // waiting and running
  std::unique_ptr<ChunkTask> chunk_;
  bool chunk_waits_ = false;  // for the cache
  absl::Time chunk_waits_until_;
  std::optional<CancelFlag::Hook> chunk_cancelled_;
  absl::Duration since_decode_;  // prefills and chunks have run so long
  absl::Duration decode_step_;   // the last one took so long
  uint64_t preemptions_ = 0;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_ENGINE_H_
