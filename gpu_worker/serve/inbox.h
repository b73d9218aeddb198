// What comes to the engine from other threads.
#ifndef TESSERA_GPU_WORKER_SERVE_INBOX_H_
#define TESSERA_GPU_WORKER_SERVE_INBOX_H_

#include <cstddef>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gpu_worker/serve/chunk_work.h"
#include "gpu_worker/serve/generation.h"

namespace tessera {

// Two bounded queues and a bell, for one reader. Thread-safe.
class Inbox {
 public:
  // most_generations: that may wait, those included that the reader took and has not started.
  Inbox(size_t most_generations, size_t most_chunks)
      : most_generations_(most_generations), most_chunks_(most_chunks) {}

  // Without waiting. False when full or closed: the work is then left with the caller.
  bool TryPush(std::unique_ptr<Generation>&& generation) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || waiting_ >= most_generations_) return false;
    ++waiting_;
    generations_.push_back(std::move(generation));
    return true;
  }
  bool TryPush(std::unique_ptr<ChunkWork>&& chunk) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || chunks_.size() >= most_chunks_) return false;
    chunks_.push_back(std::move(chunk));
    return true;
  }

  // All that came since, in order. Each waits until NoLongerWaits is said of it.
  std::vector<std::unique_ptr<Generation>> TakeGenerations() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(generations_, {});
  }
  void NoLongerWaits() {
    absl::MutexLock lock(&mutex_);
    --waiting_;
  }
  size_t waiting() const {
    absl::MutexLock lock(&mutex_);
    return waiting_;
  }

  // The oldest chunk, or null.
  std::unique_ptr<ChunkWork> TakeChunk() {
    absl::MutexLock lock(&mutex_);
    if (chunks_.empty()) return nullptr;
    std::unique_ptr<ChunkWork> first = std::move(chunks_.front());
    chunks_.pop_front();
    return first;
  }

  size_t chunks() const {
    absl::MutexLock lock(&mutex_);
    return chunks_.size();
  }

  // The reader looks again at what it waits for.
  void Ring() {
    absl::MutexLock lock(&mutex_);
    rung_ = true;
  }
  // Whether it was rung since this was last asked.
  bool TakeRing() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(rung_, false);
  }

  // Waits until something is here, or it is rung (Close rings, too), or it is `deadline`.
  void Await(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return rung_ || !generations_.empty() || !chunks_.empty();
    };
    mutex_.AwaitWithDeadline(absl::Condition(&ready), deadline);
  }

  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = rung_ = true;
  }
  // Closed, and nothing is left.
  bool IsOver() const {
    absl::MutexLock lock(&mutex_);
    return closed_ && generations_.empty() && chunks_.empty();
  }

 private:
  const size_t most_generations_;
  const size_t most_chunks_;
  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Generation>> generations_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::unique_ptr<ChunkWork>> chunks_ ABSL_GUARDED_BY(mutex_);
  bool rung_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_INBOX_H_
