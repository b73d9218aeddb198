// An event that many threads signal and one waits for.
#ifndef TESSERA_BASE_AUTO_RESET_EVENT_H_
#define TESSERA_BASE_AUTO_RESET_EVENT_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

// Signals do not add up: however many came since the last Await, one Await returns for all of them.
// So who looks at the state of things after every Await misses nothing. Thread-safe.
class AutoResetEvent {
 public:
  AutoResetEvent() = default;
  AutoResetEvent(const AutoResetEvent&) = delete;
  AutoResetEvent& operator=(const AutoResetEvent&) = delete;

  void Signal() {
    absl::MutexLock lock(&mutex_);
    signalled_ = true;
  }

  // Waits for a signal since the last Await. False: none came before `deadline`.
  bool Await(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    const bool came = mutex_.AwaitWithDeadline(absl::Condition(&signalled_), deadline);
    signalled_ = false;
    return came;
  }

 private:
  absl::Mutex mutex_;
  bool signalled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_BASE_AUTO_RESET_EVENT_H_
