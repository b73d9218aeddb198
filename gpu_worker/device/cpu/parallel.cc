#include "gpu_worker/device/cpu/parallel.h"

#include <omp.h>

#include <algorithm>

namespace tessera {

Parallel::Parallel(int threads) {
  if (threads <= 0) threads = std::max(1u, std::thread::hardware_concurrency());
  // The loop is spread here; inside a task oneDNN must not spread it again.
  omp_set_num_threads(1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { Work(); });
}

Parallel::~Parallel() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  for (std::thread& worker : workers_) worker.join();
}

void Parallel::Drain(const std::function<void(int64_t)>& task, int64_t count) {
  for (int64_t i = next_++; i < count; i = next_++) task(i);
}

void Parallel::For(int64_t count, const std::function<void(int64_t)>& task) {
  if (count <= 0) return;
  omp_set_num_threads(1);  // per thread, and the caller may not be the one that made this object
  if (count == 1 || workers_.empty()) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    task_ = &task;
    count_ = count;
    next_ = 0;
    busy_ = static_cast<int>(workers_.size());
    ++round_;
  }
  Drain(task, count);
  absl::MutexLock lock(&mutex_);
  auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return busy_ == 0; };
  mutex_.Await(absl::Condition(&idle));
  task_ = nullptr;
}

void Parallel::ForRanges(int64_t count, int64_t grain,
                         const std::function<void(int64_t, int64_t)>& task) {
  For((count + grain - 1) / grain,
      [&](int64_t i) { task(i * grain, std::min(count, (i + 1) * grain)); });
}

void Parallel::Work() {
  omp_set_num_threads(1);
  uint64_t seen = 0;
  while (true) {
    const std::function<void(int64_t)>* task;
    int64_t count;
    {
      absl::MutexLock lock(&mutex_);
      auto ready = [this, seen]()
                       ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || round_ != seen; };
      mutex_.Await(absl::Condition(&ready));
      if (stop_) return;
      seen = round_;
      task = task_;
      count = count_;
    }
    Drain(*task, count);
    absl::MutexLock lock(&mutex_);
    --busy_;
  }
}

}  // namespace tessera
