// Tells ThreadSanitizer of RocksDB's locks. What this library does to its own memory is passed over
// (suppressions.cc), and with it the pthread calls within it; so its wrappers of them say what is
// seen by whom, for code of ours that it calls on its threads. Linked and compiled as absl_tsan.cc.
// The classes have no installed header, so the functions are defined by their mangled names.
#include <pthread.h>
#include <sanitizer/tsan_interface.h>

#include <cstdint>

#include "tests/tsan/real.h"

namespace {

using tessera::tsan::Real;

// rocksdb::port::CondVar.
struct RocksdbCondVar {
  pthread_cond_t condition;
  void* mutex;
};

}  // namespace

#define ROCKSDB_PORT(rest) "_ZN7rocksdb4port" rest

extern "C" {

void RocksdbMutexLock(void* mutex) __asm__(ROCKSDB_PORT("5Mutex4LockEv"));
void RocksdbMutexLock(void* mutex) {
  static constinit Real<void(void*)> real(ROCKSDB_PORT("5Mutex4LockEv"));
  real(mutex);
  __tsan_acquire(mutex);
}

bool RocksdbMutexTryLock(void* mutex) __asm__(ROCKSDB_PORT("5Mutex7TryLockEv"));
bool RocksdbMutexTryLock(void* mutex) {
  static constinit Real<bool(void*)> real(ROCKSDB_PORT("5Mutex7TryLockEv"));
  const bool locked = real(mutex);
  if (locked) __tsan_acquire(mutex);
  return locked;
}

void RocksdbMutexUnlock(void* mutex) __asm__(ROCKSDB_PORT("5Mutex6UnlockEv"));
void RocksdbMutexUnlock(void* mutex) {
  static constinit Real<void(void*)> real(ROCKSDB_PORT("5Mutex6UnlockEv"));
  __tsan_release(mutex);
  real(mutex);
}

void RocksdbWait(RocksdbCondVar* changed) __asm__(ROCKSDB_PORT("7CondVar4WaitEv"));
void RocksdbWait(RocksdbCondVar* changed) {
  static constinit Real<void(RocksdbCondVar*)> real(ROCKSDB_PORT("7CondVar4WaitEv"));
  __tsan_release(changed->mutex);
  real(changed);
  __tsan_acquire(changed->mutex);
}

bool RocksdbTimedWait(RocksdbCondVar* changed,
                      uint64_t until) __asm__(ROCKSDB_PORT("7CondVar9TimedWaitEm"));
bool RocksdbTimedWait(RocksdbCondVar* changed, uint64_t until) {
  static constinit Real<bool(RocksdbCondVar*, uint64_t)> real(ROCKSDB_PORT("7CondVar9TimedWaitEm"));
  __tsan_release(changed->mutex);
  const bool timed_out = real(changed, until);
  __tsan_acquire(changed->mutex);
  return timed_out;
}

}  // extern "C"
