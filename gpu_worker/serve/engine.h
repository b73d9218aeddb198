// Runs requests: the only thread that issues device work.
#ifndef TESSERA_GPU_WORKER_SERVE_ENGINE_H_
#define TESSERA_GPU_WORKER_SERVE_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/bounded_queue.h"
#include "base/cancel_flag.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/chunk_writer.h"
#include "gpu_worker/serve/sampler.h"

namespace tessera {

// What happens to a request, told on the engine's thread. Calls must not block for long.
class GenerationListener {
 public:
  virtual ~GenerationListener() = default;
  // After prefill, just before the first token.
  virtual void OnStarted(const Prefilled& prefilled, absl::Duration queued,
                         absl::Duration prefill) = 0;
  virtual void OnToken(const SampledToken& token) = 0;
  // Last, and always: OK with the reason, or why it ended early. ended: an end token was sampled
  // (otherwise it is max_new_tokens).
  virtual void OnFinished(const absl::Status& status, bool ended, int64_t tokens) = 0;
};

struct Generation {
  std::string request_id;
  BlendRequest prompt;  // max_new_tokens >= 1
  SamplingParams sampling;
  std::vector<uint32_t> end_tokens;
  std::shared_ptr<CancelFlag> cancelled;  // set by anyone, at any time
  std::unique_ptr<GenerationListener> listener;
  absl::Time submitted;
};

// Thread-safe. Requests run one after the other, in the order they came.
class Engine {
 public:
  // All must outlive the engine. capacity: requests that may wait.
  Engine(const Decoder* decoder, Blender* blender, ChunkWriter* writer, size_t capacity);
  // Cancels the running request and drops those that wait, telling their listeners.
  ~Engine();

  // RESOURCE_EXHAUSTED when the queue is full; the listener then hears nothing.
  absl::Status Submit(std::unique_ptr<Generation> generation);

 private:
  void Work();
  void Run(Generation& generation);
  void SetRunning(std::shared_ptr<CancelFlag> cancelled);
  absl::Status Decode(Generation& generation, Prefilled& prefilled, int64_t& tokens, bool& ended);

  const Decoder& decoder_;
  Blender& blender_;
  ChunkWriter& writer_;
  BoundedQueue<std::unique_ptr<Generation>> queue_;
  std::atomic<bool> stopping_ = false;
  absl::Mutex mutex_;
  // The running request's flag; null between requests.
  std::shared_ptr<CancelFlag> running_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_ENGINE_H_
