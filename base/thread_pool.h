// A few threads for work that may wait.
#ifndef TESSERA_BASE_THREAD_POOL_H_
#define TESSERA_BASE_THREAD_POOL_H_

#include <cstddef>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "base/bounded_queue.h"

namespace tessera {

// Thread-safe. Its destructor runs what is queued, and waits for it.
class ThreadPool {
 public:
  ThreadPool(size_t threads, size_t queue) : queue_(queue) {
    for (size_t i = 0; i < threads; ++i) {
      threads_.emplace_back([this] {
        while (const auto work = queue_.Pop()) (*work)();
      });
    }
  }
  ~ThreadPool() {
    queue_.Close();
    for (std::thread& thread : threads_) thread.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // False: the queue is full, and `work` was not taken.
  bool TryRun(std::function<void()> work) { return queue_.TryPush(std::move(work)); }

 private:
  BoundedQueue<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
};

}  // namespace tessera

#endif  // TESSERA_BASE_THREAD_POOL_H_
