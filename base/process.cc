#include "base/process.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>

#include <thread>

#include "absl/flags/parse.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "glog/logging.h"

namespace tessera {
namespace {

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

void StartProcess(const char* program) {
  // 32 MiB is the largest threshold that glibc accepts; larger slices than that are never sent.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  // Debian's Abseil looks for deadlocks at every lock, under one spinlock for all threads.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(program);
  signal(SIGPIPE, SIG_IGN);
  const sigset_t signals = StopSignals();
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
}

void StepLogLevelOnSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGUSR2);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
  // It uses nothing that ends before the process.
  std::thread([signals] {
    int received = 0;
    while (sigwait(&signals, &received) == 0) {
      const LogLevel before = CurrentLogLevel();
      const LogLevel now = StepLogLevel(received == SIGUSR1);
      LogLine(LogLevel::kInfo, "log_level_changed")
          .With("from", LogLevelName(before))
          .With("to", LogLevelName(now));
    }
  }).detach();
}

void StartProcess(int argc, char** argv) {
  StartProcess(argv[0]);
  absl::ParseCommandLine(argc, argv);
}

void WaitForStopSignal() {
  const sigset_t signals = StopSignals();
  int received = 0;
  sigwait(&signals, &received);
}

bool WaitForStopSignal(absl::Duration timeout) {
  const sigset_t signals = StopSignals();
  const timespec wait = absl::ToTimespec(timeout);
  // Interrupted by another signal counts as a timeout: the caller waits again.
  return sigtimedwait(&signals, nullptr, &wait) > 0;
}

}  // namespace tessera
