// A flag that says that a piece of work is no longer wanted.
#ifndef TESSERA_BASE_CANCEL_FLAG_H_
#define TESSERA_BASE_CANCEL_FLAG_H_

#include <atomic>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

// Set once, by anyone. Who computes looks at it now and then; who waits is told by a Hook.
// Thread-safe.
class CancelFlag {
 public:
  CancelFlag() = default;
  CancelFlag(const CancelFlag&) = delete;
  CancelFlag& operator=(const CancelFlag&) = delete;

  void Set() {
    absl::MutexLock lock(&mutex_);
    if (set_.exchange(true)) return;
    for (const Hook* hook : hooks_) hook->call_();
  }
  bool IsSet() const { return set_.load(); }
  // For who only looks.
  const std::atomic<bool>& value() const { return set_; }

  // Calls `call` when the flag is set, on the thread that sets it, or at once if it is set already;
  // never after its own end. The call must not wait, and must not touch the flag.
  class Hook {
   public:
    Hook(const CancelFlag& flag, std::function<void()> call) : flag_(flag), call_(std::move(call)) {
      absl::MutexLock lock(&flag_.mutex_);
      flag_.hooks_.insert(this);
      if (flag_.set_) call_();
    }
    ~Hook() {
      absl::MutexLock lock(&flag_.mutex_);
      flag_.hooks_.erase(this);
    }
    Hook(const Hook&) = delete;
    Hook& operator=(const Hook&) = delete;

   private:
    friend class CancelFlag;
    const CancelFlag& flag_;
    const std::function<void()> call_;
  };

 private:
  std::atomic<bool> set_{false};
  mutable absl::Mutex mutex_;
  mutable absl::flat_hash_set<const Hook*> hooks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_BASE_CANCEL_FLAG_H_
