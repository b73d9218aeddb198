// Runs requests: the only thread that issues device work.
#ifndef TESSERA_GPU_WORKER_SERVE_ENGINE_H_
#define TESSERA_GPU_WORKER_SERVE_ENGINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/cancel_flag.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/chunk_work.h"
#include "gpu_worker/serve/chunk_writer.h"
#include "gpu_worker/serve/generation.h"
#include "gpu_worker/serve/generation_run.h"
#include "gpu_worker/serve/work_queue.h"

namespace tessera {

struct EngineOptions {
  // Requests to generate that may wait.
  size_t queue = 256;
  // Requests that run at a time: rows of a decode step.
  size_t max_running = 32;
  // Positions of KV memory that they have together; one request always may run.
  int64_t kv_tokens = std::numeric_limits<int64_t>::max();
};

// Thread-safe. Requests start in the order of their priority and then in the order they came, as
// soon as there is room, and then decode together, a token each a step (continuous batching: Yu et
// al., Orca, 2022). A prefill is one piece of work, between whose layers the running ones go on,
// for at most as long as it itself does. Chunks are computed, a piece at a time, while no request
// to generate waits. What a request gets does not depend on what else runs.
class Engine {
 public:
  // Chunks that may wait beside the running one.
  static constexpr size_t kMostChunks = 256;

  // All must outlive the engine, which owns the decoder's pause.
  Engine(Decoder* decoder, Blender* blender, ChunkWriter* writer, const EngineOptions& options);
  // Cancels what runs and drops what waits, telling the listeners.
  ~Engine();

  // RESOURCE_EXHAUSTED when the queue is full; the listener then hears nothing.
  absl::Status Submit(std::unique_ptr<Generation> generation);
  absl::Status Submit(std::unique_ptr<ChunkWork> chunk);

 private:
  // Marks work as under way, so that the destructor cancels it.
  class Underway;

  template <typename Task>
  absl::Status Push(std::unique_ptr<Task> work);
  void Work();
  bool HasRoomFor(const Generation& generation) const;
  void Begin(std::unique_ptr<Generation> generation);
  // One step of all that run.
  void Decode();
  // A step, if the work between whose layers this is has had as long as the last one.
  void DecodeBetweenLayers();
  void StepChunk();

  Decoder& decoder_;
  Blender& blender_;
  ChunkWriter& writer_;
  const EngineOptions options_;
  WorkQueue queue_;
  // The rest is used by thread_ only, but for stopping_ and what is guarded.
  std::vector<std::unique_ptr<GenerationRun>> runs_;
  std::unique_ptr<ChunkTask> chunk_;
  absl::Time decoded_ = absl::InfinitePast();  // the last step's end
  absl::Duration step_;                        // and how long it took
  std::atomic<bool> stopping_ = false;
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<CancelFlag>> underway_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_ENGINE_H_
