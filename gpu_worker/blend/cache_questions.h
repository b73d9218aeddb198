// Asks the cache what it has, without the asking thread ever waiting for it.
#ifndef TESSERA_GPU_WORKER_BLEND_CACHE_QUESTIONS_H_
#define TESSERA_GPU_WORKER_BLEND_CACHE_QUESTIONS_H_

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/thread_pool.h"
#include "cache_server/chunk/key.h"
#include "cache_server/client/cache_client.h"

namespace tessera {

// An answer that comes later. Thread-safe.
class MissingKeys {
 public:
  bool ready() const {
    absl::MutexLock lock(&mutex_);
    return ready_;
  }
  // One for each key, in order; once it is ready.
  std::vector<bool> Take() {
    absl::MutexLock lock(&mutex_);
    return std::move(missing_);
  }
  void Set(std::vector<bool> missing) {
    absl::MutexLock lock(&mutex_);
    missing_ = std::move(missing);
    ready_ = true;
  }

 private:
  mutable absl::Mutex mutex_;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<bool> missing_ ABSL_GUARDED_BY(mutex_);
};

// CacheClient::FindMissing on a thread of its own, one question after the other. Thread-safe. Its
// destructor waits for the answers that are due.
class CacheQuestions {
 public:
  // Questions that may wait.
  static constexpr size_t kMost = 16;

  // on_answer: called on that thread when one is ready; must be quick. Both must outlive it.
  CacheQuestions(CacheClient* client, std::function<void()> on_answer)
      : client_(*client), on_answer_(std::move(on_answer)), thread_(/*threads=*/1, kMost) {}

  // Null: too many wait.
  std::shared_ptr<MissingKeys> Ask(std::vector<ChunkKey> keys, CallOptions options) {
    auto answer = std::make_shared<MissingKeys>();
    const bool taken =
        thread_.TryRun([this, answer, keys = std::move(keys), options = std::move(options)] {
          answer->Set(client_.FindMissing(keys, options));
          on_answer_();
        });
    return taken ? answer : nullptr;
  }

 private:
  CacheClient& client_;
  const std::function<void()> on_answer_;
  ThreadPool thread_;  // last: it ends first
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_CACHE_QUESTIONS_H_
