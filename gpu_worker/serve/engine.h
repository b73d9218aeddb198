// Runs requests: the only thread that issues device work.
#ifndef TESSERA_GPU_WORKER_SERVE_ENGINE_H_
#define TESSERA_GPU_WORKER_SERVE_ENGINE_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel_flag.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/chunk_work.h"
#include "gpu_worker/serve/chunk_writer.h"
#include "gpu_worker/serve/generation.h"
#include "gpu_worker/serve/work_queue.h"

namespace tessera {

// Thread-safe. Requests to generate run one after the other, in the order of their priority and
// then in the order they came. Chunks are computed, a piece at a time, while none of them waits.
class Engine {
 public:
  // Chunks that may wait beside the running one.
  static constexpr size_t kMostChunks = 256;

  // All must outlive the engine. capacity: requests to generate that may wait.
  Engine(const Decoder* decoder, Blender* blender, ChunkWriter* writer, size_t capacity);
  // Cancels what runs and drops what waits, telling the listeners.
  ~Engine();

  // RESOURCE_EXHAUSTED when the queue is full; the listener then hears nothing.
  absl::Status Submit(std::unique_ptr<Generation> generation);
  absl::Status Submit(std::unique_ptr<ChunkWork> chunk);

 private:
  template <typename Task>
  absl::Status Push(std::unique_ptr<Task> work);
  void Work();
  void RunGeneration(Generation& generation);
  void StepChunk();
  void SetRunning(std::shared_ptr<CancelFlag> cancelled);

  const Decoder& decoder_;
  Blender& blender_;
  ChunkWriter& writer_;
  WorkQueue queue_;
  std::unique_ptr<ChunkTask> chunk_;  // under way; only used by thread_
  std::atomic<bool> stopping_ = false;
  absl::Mutex mutex_;
  // The running request's flag; null between requests.
  std::shared_ptr<CancelFlag> running_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_ENGINE_H_
