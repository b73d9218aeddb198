// A loop spread over the cores.
#ifndef TESSERA_GPU_WORKER_DEVICE_CPU_PARALLEL_H_
#define TESSERA_GPU_WORKER_DEVICE_CPU_PARALLEL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

// One caller at a time. Tasks are claimed one by one, so which thread runs a task is chance; a task
// must therefore write only what is its own.
class Parallel {
 public:
  // threads: in all, with the caller; 0: one per core.
  explicit Parallel(int threads);
  ~Parallel();
  Parallel(const Parallel&) = delete;
  Parallel& operator=(const Parallel&) = delete;

  // Runs task(0) .. task(count - 1) and returns when all are done.
  void For(int64_t count, const std::function<void(int64_t)>& task);

  // The same over [0, count) in ranges of at most `grain`: task(first, last).
  void ForRanges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& task);

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

 private:
  void Work();
  void Drain(const std::function<void(int64_t)>& task, int64_t count);

  absl::Mutex mutex_;
  const std::function<void(int64_t)>* task_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int64_t count_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t round_ ABSL_GUARDED_BY(mutex_) = 0;  // of For calls
  int busy_ ABSL_GUARDED_BY(mutex_) = 0;        // workers inside the present round
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<int64_t> next_{0};
  std::vector<std::thread> workers_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CPU_PARALLEL_H_
