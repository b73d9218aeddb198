// What waits for the engine.
#ifndef TESSERA_GPU_WORKER_SERVE_WORK_QUEUE_H_
#define TESSERA_GPU_WORKER_SERVE_WORK_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "gpu_worker/serve/chunk_work.h"
#include "gpu_worker/serve/generation.h"

namespace tessera {

// Two bounded queues for one reader. Generations come first: the lowest priority value, and of
// equal ones the oldest. Chunks come, oldest first, only while no generation waits, whatever its
// priority: a running ingest delays a question by no more than the step that it is in. Thread-safe.
class WorkQueue {
 public:
  WorkQueue(size_t most_generations, size_t most_chunks)
      : most_generations_(most_generations), most_chunks_(most_chunks) {}

  // Without waiting. False when full or closed: the work is then left with the caller.
  bool TryPush(std::unique_ptr<Generation>&& generation) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || generations_.size() >= most_generations_) return false;
    const Rank rank = {generation->priority, pushed_++};
    generations_.emplace(rank, std::move(generation));
    return true;
  }
  bool TryPush(std::unique_ptr<ChunkWork>&& chunk) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || chunks_.size() >= most_chunks_) return false;
    chunks_.push_back(std::move(chunk));
    return true;
  }

  // Waits until something is here. False: closed and empty.
  bool AwaitWork() {
    absl::MutexLock lock(&mutex_);
    auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return closed_ || !generations_.empty() || !chunks_.empty();
    };
    mutex_.Await(absl::Condition(&ready));
    return !generations_.empty() || !chunks_.empty();
  }

  // The next generation, or null: none waits, or the next one does not fit now. None overtakes it,
  // or large ones would wait for ever.
  std::unique_ptr<Generation> TryPopGeneration(absl::FunctionRef<bool(const Generation&)> fits) {
    absl::MutexLock lock(&mutex_);
    if (generations_.empty() || !fits(*generations_.begin()->second)) return nullptr;
    std::unique_ptr<Generation> first = std::move(generations_.begin()->second);
    generations_.erase(generations_.begin());
    return first;
  }

  // The oldest chunk, or null: none waits, or a generation does.
  std::unique_ptr<ChunkWork> TryPopChunk() {
    absl::MutexLock lock(&mutex_);
    if (chunks_.empty() || !generations_.empty()) return nullptr;
    std::unique_ptr<ChunkWork> first = std::move(chunks_.front());
    chunks_.pop_front();
    return first;
  }

  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

 private:
  using Rank = std::pair<int32_t, uint64_t>;  // priority, number of the push

  const size_t most_generations_;
  const size_t most_chunks_;
  absl::Mutex mutex_;
  std::map<Rank, std::unique_ptr<Generation>> generations_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::unique_ptr<ChunkWork>> chunks_ ABSL_GUARDED_BY(mutex_);
  uint64_t pushed_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_WORK_QUEUE_H_
