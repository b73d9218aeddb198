// A queue between threads that never grows past its capacity.
#ifndef TESSERA_BASE_BOUNDED_QUEUE_H_
#define TESSERA_BASE_BOUNDED_QUEUE_H_

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

// Thread-safe. After Close, pushes fail and pops drain what is left, then return nothing.
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  // Appends without waiting. False when full or closed: `value` is then left as it was.
  bool TryPush(T&& value) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || values_.size() >= capacity_) return false;
    values_.push_back(std::move(value));
    return true;
  }

  // Appends, waiting for room up to `timeout`. False when there was none, or closed.
  bool Push(T&& value, absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return closed_ || values_.size() < capacity_;
    };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout) || closed_) return false;
    values_.push_back(std::move(value));
    return true;
  }

  // The oldest value; waits for one up to `timeout`. Nothing after the wait, or when closed and empty.
  std::optional<T> Pop(absl::Duration timeout = absl::InfiniteDuration()) {
    absl::MutexLock lock(&mutex_);
    auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return closed_ || !values_.empty();
    };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout) || values_.empty()) {
      return std::nullopt;
    }
    std::optional<T> value(std::move(values_.front()));
    values_.pop_front();
    return value;
  }

  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

  size_t size() const {
    absl::MutexLock lock(&mutex_);
    return values_.size();
  }

 private:
  const size_t capacity_;
  mutable absl::Mutex mutex_;
  std::deque<T> values_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_BASE_BOUNDED_QUEUE_H_
