// Makes Debian's Abseil speak to ThreadSanitizer.
//
// Abseil's locks tell ThreadSanitizer what they do when they are compiled with it. Debian's library
// is not, so without this file every access that an absl::Mutex guards would look like a race. The
// functions here stand in front of the library's exported ones (the program's symbols win over
// those of a shared library, for calls from gRPC and from within the library too), say what
// Abseil's own source says at the same places, and call the real ones.
//
// Linked into every program of the tsan configuration only (--custom_malloc in .bazelrc), and
// compiled without instrumentation, so that its own accesses neither race nor synchronize.
#include <sanitizer/tsan_interface.h>

#include <atomic>

#include "absl/status/status.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "tests/tsan/real.h"

// Parts of ThreadSanitizer's run time that GCC installs no header for: what the compiler turns an
// atomic's fetch_sub into, and the border of code whose writes are passed over.
extern "C" int __tsan_atomic32_fetch_sub(volatile int* atomic, int value, int memory_order);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);

// Mangled names start with the inline namespace of Debian's build.
#define ABSL_NAME(rest) "_ZN4absl7debian3" rest
#define ABSL_CONST_NAME(rest) "_ZNK4absl7debian3" rest

namespace {

using tessera::tsan::Real;

// The operation that this thread is within, as ThreadSanitizer sees it: between pre_lock and
// post_lock, or between pre_unlock and post_unlock. All accesses in there are ignored.
struct Operation {
  absl::Mutex* mutex;
  unsigned flags;
  bool locking;
};
thread_local Operation* current = nullptr;

// Makes an operation the current one while it lives.
class Within {
 public:
  explicit Within(Operation* operation) : outer_(current) { current = operation; }
  ~Within() { current = outer_; }

 private:
  Operation* const outer_;
};

// A lock operation around `real`, which says whether the lock is held then.
template <typename Call>
bool Locking(absl::Mutex* mutex, unsigned flags, Call real) {
  __tsan_mutex_pre_lock(mutex, flags);
  Operation operation = {mutex, flags, true};
  bool held;
  {
    Within within(&operation);
    held = real();
  }
  const bool tried = (flags & __tsan_mutex_try_lock) != 0;
  __tsan_mutex_post_lock(mutex, flags | (tried && !held ? __tsan_mutex_try_lock_failed : 0), 0);
  return held;
}

template <typename Call>
void Unlocking(absl::Mutex* mutex, unsigned flags, Call real) {
  __tsan_mutex_pre_unlock(mutex, flags);
  Operation operation = {mutex, flags, false};
  {
    Within within(&operation);
    real();
  }
  __tsan_mutex_post_unlock(mutex, flags);
}

// A wait: first an unlock, then a lock. `real` calls BackToLocking where one ends and the other
// starts.
template <typename Call>
bool Waiting(absl::Mutex* mutex, unsigned flags, Call real) {
  __tsan_mutex_pre_unlock(mutex, flags);
  Operation operation = {mutex, flags, false};
  bool result;
  {
    Within within(&operation);
    result = real();
  }
  __tsan_mutex_post_lock(mutex, flags, 0);
  return result;
}

// A condition lies with the thread that waits, often on its stack, and other threads evaluate it.
// Between the two are the library's own atomics.
void Publish(const absl::Condition& condition) {
  __tsan_release(const_cast<absl::Condition*>(&condition));
}
void SeePublished(const absl::Condition* condition) {
  __tsan_acquire(const_cast<absl::Condition*>(condition));
}

void BackToLocking() {
  if (current == nullptr || current->locking) return;
  __tsan_mutex_post_unlock(current->mutex, current->flags);
  __tsan_mutex_pre_lock(current->mutex, current->flags);
  current->locking = true;
}

// How the mutex, whose state this is, is held.
unsigned HeldFlags(intptr_t state) {
  constexpr intptr_t kWriter = 0x0008;
  return (state & kWriter) != 0 ? 0 : __tsan_mutex_read_lock;
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

using synchronization_internal::KernelTimeout;

Mutex::~Mutex() {
  static constinit Real<void(Mutex*)> real(ABSL_NAME("5MutexD1Ev"));
  __tsan_mutex_destroy(this, __tsan_mutex_not_static);
  real(this);
}

void Mutex::Lock() {
  static constinit Real<void(Mutex*)> real(ABSL_NAME("5Mutex4LockEv"));
  Locking(this, 0, [&] { return real(this), true; });
}

void Mutex::Unlock() {
  static constinit Real<void(Mutex*)> real(ABSL_NAME("5Mutex6UnlockEv"));
  Unlocking(this, 0, [&] { real(this); });
}

bool Mutex::TryLock() {
  static constinit Real<bool(Mutex*)> real(ABSL_NAME("5Mutex7TryLockEv"));
  return Locking(this, __tsan_mutex_try_lock, [&] { return real(this); });
}

void Mutex::ReaderLock() {
  static constinit Real<void(Mutex*)> real(ABSL_NAME("5Mutex10ReaderLockEv"));
  Locking(this, __tsan_mutex_read_lock, [&] { return real(this), true; });
}

void Mutex::ReaderUnlock() {
  static constinit Real<void(Mutex*)> real(ABSL_NAME("5Mutex12ReaderUnlockEv"));
  Unlocking(this, __tsan_mutex_read_lock, [&] { real(this); });
}

bool Mutex::ReaderTryLock() {
  static constinit Real<bool(Mutex*)> real(ABSL_NAME("5Mutex13ReaderTryLockEv"));
  return Locking(this, __tsan_mutex_try_read_lock, [&] { return real(this); });
}

// The locks with a time limit hold the mutex also when they return false: that is the condition.
void Mutex::LockWhen(const Condition& condition) {
  static constinit Real<void(Mutex*, const Condition*)> real(
      ABSL_NAME("5Mutex8LockWhenERKNS0_9ConditionE"));
  Publish(condition);
  Locking(this, 0, [&] { return real(this, &condition), true; });
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  static constinit Real<bool(Mutex*, const Condition*, Time)> real(
      ABSL_NAME("5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE"));
  Publish(condition);
  return Locking(this, 0, [&] { return real(this, &condition, deadline); });
}

void Mutex::ReaderLockWhen(const Condition& condition) {
  static constinit Real<void(Mutex*, const Condition*)> real(
      ABSL_NAME("5Mutex14ReaderLockWhenERKNS0_9ConditionE"));
  Publish(condition);
  Locking(this, __tsan_mutex_read_lock, [&] { return real(this, &condition), true; });
}

bool Mutex::ReaderLockWhenWithDeadline(const Condition& condition, Time deadline) {
  static constinit Real<bool(Mutex*, const Condition*, Time)> real(
      ABSL_NAME("5Mutex26ReaderLockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE"));
  Publish(condition);
  return Locking(this, __tsan_mutex_read_lock, [&] { return real(this, &condition, deadline); });
}

// What all of Await, AwaitWithTimeout and AwaitWithDeadline call when the condition is not true
// yet.
bool Mutex::AwaitCommon(const Condition& condition, KernelTimeout timeout) {
  static constinit Real<bool(Mutex*, const Condition*, KernelTimeout)> real(ABSL_NAME(
      "5Mutex11AwaitCommonERKNS0_9ConditionENS0_24synchronization_internal13KernelTimeoutE"));
  Publish(condition);
  return Waiting(this, HeldFlags(mu_.load(std::memory_order_relaxed)),
                 [&] { return real(this, &condition, timeout); });
}

// Where AwaitCommon starts to lock again.
void Mutex::LockSlowLoop(SynchWaitParams* wait, int flags) {
  static constinit Real<void(Mutex*, SynchWaitParams*, int)> real(
      ABSL_NAME("5Mutex12LockSlowLoopEPNS0_15SynchWaitParamsEi"));
  BackToLocking();
  real(this, wait, flags);
}

// What all waits on a CondVar call.
bool CondVar::WaitCommon(Mutex* mutex, KernelTimeout timeout) {
  static constinit Real<bool(CondVar*, Mutex*, KernelTimeout)> real(
      ABSL_NAME("7CondVar10WaitCommonEPNS0_5MutexENS0_24synchronization_internal13KernelTimeoutE"));
  // A Mutex is its state and nothing else; CondVar is its friend only within the library.
  static_assert(sizeof(Mutex) == sizeof(intptr_t));
  const auto* state = reinterpret_cast<const std::atomic<intptr_t>*>(mutex);
  return Waiting(mutex, HeldFlags(state->load(std::memory_order_relaxed)),
                 [&] { return real(this, mutex, timeout); });
}

// Where WaitCommon starts to lock again.
void Mutex::Trans(MuHow how) {
  static constinit Real<void(Mutex*, MuHow)> real(ABSL_NAME("5Mutex5TransEPKNS0_6MuHowSE"));
  BackToLocking();
  real(this, how);
}

// Conditions run within lock and unlock operations, whose accesses ThreadSanitizer ignores, and for
// an unlock it believes that the mutex is free already. So the operation is ended, the condition is
// evaluated as what it is, code under the mutex, and the operation started again.
bool Condition::Eval() const {
  static constinit Real<bool(const Condition*)> real(ABSL_CONST_NAME("9Condition4EvalEv"));
  Operation* const operation = current;
  if (operation == nullptr) return real(this);
  Within nothing(nullptr);
  Mutex* const mutex = operation->mutex;
  const unsigned flags = operation->flags;
  if (operation->locking) {
    __tsan_mutex_post_lock(mutex, flags, 0);
  } else {
    __tsan_mutex_post_unlock(mutex, flags);
    __tsan_mutex_pre_lock(mutex, flags);
    __tsan_mutex_post_lock(mutex, flags, 0);
  }
  SeePublished(this);
  const bool result = real(this);
  __tsan_mutex_pre_unlock(mutex, flags);
  if (operation->locking) {
    __tsan_mutex_post_unlock(mutex, flags);
    __tsan_mutex_pre_lock(mutex, flags);
  }
  return result;
}

// The flag of a Notification and the count of a BlockingCounter are atomics that the library
// writes, and that are read without a lock.
void Notification::Notify() {
  static constinit Real<void(Notification*)> real(ABSL_NAME("12Notification6NotifyEv"));
  __tsan_release(&notified_yet_);
  real(this);
}

void Notification::WaitForNotification() const {
  static constinit Real<void(const Notification*)> real(
      ABSL_CONST_NAME("12Notification19WaitForNotificationEv"));
  real(this);
  __tsan_acquire(const_cast<std::atomic<bool>*>(&notified_yet_));
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  static constinit Real<bool(const Notification*, Duration)> real(
      ABSL_CONST_NAME("12Notification30WaitForNotificationWithTimeoutENS0_8DurationE"));
  const bool notified = real(this, timeout);
  if (notified) __tsan_acquire(const_cast<std::atomic<bool>*>(&notified_yet_));
  return notified;
}

bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  static constinit Real<bool(const Notification*, Time)> real(
      ABSL_CONST_NAME("12Notification31WaitForNotificationWithDeadlineENS0_4TimeE"));
  const bool notified = real(this, deadline);
  if (notified) __tsan_acquire(const_cast<std::atomic<bool>*>(&notified_yet_));
  return notified;
}

bool BlockingCounter::DecrementCount() {
  static constinit Real<bool(BlockingCounter*)> real(
      ABSL_NAME("15BlockingCounter14DecrementCountEv"));
  __tsan_release(&count_);
  if (!real(this)) return false;
  __tsan_acquire(&count_);
  return true;
}

void BlockingCounter::Wait() {
  static constinit Real<void(BlockingCounter*)> real(ABSL_NAME("15BlockingCounter4WaitEv"));
  real(this);
  __tsan_acquire(&count_);
}

// Who drops the last reference to a status's message sees what all others did with it. The library
// then deletes it, as whoever holds the only one.
void Status::UnrefNonInlined(uintptr_t rep) {
  static constinit Real<void(uintptr_t)> real(ABSL_NAME("6Status15UnrefNonInlinedEm"));
  std::atomic<int32_t>& references = RepToPointer(rep)->ref;
  auto* const seen = reinterpret_cast<volatile int*>(&references);
  if (__tsan_atomic32_fetch_sub(seen, 1, __ATOMIC_ACQ_REL) != 1) return;
  references.store(1, std::memory_order_relaxed);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  real(rep);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
}

ABSL_NAMESPACE_END
}  // namespace absl
