// A program that a bench starts, watches and stops.
#ifndef TESSERA_TESTS_BENCH_CHILD_PROCESS_H_
#define TESSERA_TESTS_BENCH_CHILD_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera::bench {

// Killed at the latest by the destructor, and when this process ends. What it writes is kept in a
// file, and never makes it wait. For one thread.
class ChildProcess {
 public:
  // Starts `arguments[0]`, found along PATH if it has no slash, and writes what it says to `log`.
  ChildProcess(std::vector<std::string> arguments, const std::string& log);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // Waits for a line that has `text` in it and returns it; empty when it did not come, or the
  // program has ended.
  std::string WaitForLine(const std::string& text, absl::Duration timeout);

  // Sends a signal, and waits for the end: the exit code, or -signal. Once.
  int Stop(int signal);

  pid_t pid() const { return pid_; }

 private:
  void CopyOutput(int pipe, int log);

  pid_t pid_ = 0;
  absl::Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);  // the first ones
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread copier_;
};

// What /proc says of a process now; zeros when it is gone.
struct ProcessFigures {
  double cpu_seconds = 0;
  uint64_t anonymous_bytes = 0;
  uint64_t shared_bytes = 0;  // of shared memory, its part
  uint64_t threads = 0;
  uint64_t descriptors = 0;  // without those of files in a folder, see ReadFigures
  uint64_t files = 0;        // descriptors of files in that folder
};
ProcessFigures ReadFigures(pid_t pid, const std::string& folder);
// The first of them alone, which costs less.
double CpuSeconds(pid_t pid);

// The first of `paths` that is a file; the last one if none is.
std::string FirstFile(const std::vector<std::string>& paths);

// The cache server as Bazel has built it, seen from a bench's runfiles or from the repository.
std::string BuiltServer();

// A new folder under /tmp, removed with its owner.
class ScratchFolder {
 public:
  explicit ScratchFolder(const std::string& parent);
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tessera::bench

#endif  // TESSERA_TESTS_BENCH_CHILD_PROCESS_H_
