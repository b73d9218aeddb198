// What waits for the engine.
#ifndef TESSERA_GPU_WORKER_SERVE_WORK_QUEUE_H_
#define TESSERA_GPU_WORKER_SERVE_WORK_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gpu_worker/serve/chunk_work.h"
#include "gpu_worker/serve/generation.h"

namespace tessera {

// Two bounded queues for one reader. Generations come first: the lowest priority value, and of
// equal ones the oldest. Chunks come, oldest first, only while no generation waits, whatever its
// priority: a running ingest delays a question by no more than the step that it is in. Thread-safe.
class WorkQueue {
 public:
  // What Pop returns; NoWork: closed and empty.
  struct NoWork {};
  using Work = std::variant<NoWork, std::unique_ptr<Generation>, std::unique_ptr<ChunkWork>>;

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

  // The next piece of work; waits for one. After Close it drains what is left.
  Work Pop() {
    absl::MutexLock lock(&mutex_);
    auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return closed_ || !generations_.empty() || !chunks_.empty();
    };
    mutex_.Await(absl::Condition(&ready));
    if (!generations_.empty()) return PopFirst();
    if (chunks_.empty()) return NoWork();
    Work chunk = std::move(chunks_.front());
    chunks_.pop_front();
    return chunk;
  }

  // The next generation, or null: none waits now.
  std::unique_ptr<Generation> TryPopGeneration() {
    absl::MutexLock lock(&mutex_);
    return generations_.empty() ? nullptr : PopFirst();
  }

  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

 private:
  using Rank = std::pair<int32_t, uint64_t>;  // priority, number of the push

  std::unique_ptr<Generation> PopFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::unique_ptr<Generation> first = std::move(generations_.begin()->second);
    generations_.erase(generations_.begin());
    return first;
  }

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
