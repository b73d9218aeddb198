#include "cache_server/ctl/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "base/process.h"

namespace tessera::ctl {

Interrupt::Interrupt() : thread_([this]() { Loop(); }) {}

Interrupt::~Interrupt() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  // To this thread only, which waits for it.
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void Interrupt::Loop() {
  while (true) {
    WaitForStopSignal();
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    if (requested_) _exit(130);
    requested_ = true;
    for (grpc::ClientContext* context : open_) context->TryCancel();
  }
}

bool Interrupt::requested() const {
  absl::MutexLock lock(&mutex_);
  return requested_;
}

bool Interrupt::WaitFor(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&requested_), timeout);
}

void Interrupt::Add(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  open_.insert(context);
  if (requested_) context->TryCancel();
}

void Interrupt::Remove(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  open_.erase(context);
}

}  // namespace tessera::ctl
