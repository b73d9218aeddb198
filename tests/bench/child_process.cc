#include "tests/bench/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace tessera::bench {
namespace {

namespace fs = std::filesystem;

// Lines that WaitForLine may find; what a server says later is in its log.
constexpr size_t kMostLines = 1000;

[[noreturn]] void Become(std::vector<std::string> arguments, int output) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // StartProcess blocks what stops a program; the child decides for itself.
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  std::fprintf(stderr, "%s: %s\n", argv[0], std::strerror(errno));
  _exit(127);
}

}  // namespace

ChildProcess::ChildProcess(std::vector<std::string> arguments, const std::string& log) {
  int ends[2];
  PCHECK(pipe2(ends, O_CLOEXEC) == 0);
  const int file = open(log.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
  PCHECK(file >= 0) << log;
  pid_ = fork();
  PCHECK(pid_ >= 0);
  if (pid_ == 0) Become(std::move(arguments), ends[1]);
  close(ends[1]);
  copier_ = std::thread([this, pipe = ends[0], file] { CopyOutput(pipe, file); });
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0) Stop(SIGKILL);
  copier_.join();
}

void ChildProcess::CopyOutput(int pipe, int log) {
  char bytes[4096];
  std::string line;
  ssize_t got;
  while ((got = read(pipe, bytes, sizeof(bytes))) > 0) {
    PCHECK(write(log, bytes, got) == got);
    absl::MutexLock lock(&mutex_);
    for (const char letter : absl::string_view(bytes, got)) {
      if (letter != '\n') {
        line += letter;
      } else if (lines_.size() < kMostLines) {
        lines_.push_back(std::exchange(line, {}));
      } else {
        line.clear();
      }
    }
  }
  close(pipe);
  close(log);
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

std::string ChildProcess::WaitForLine(const std::string& text, absl::Duration timeout) {
  std::string found;
  const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const std::string& line : lines_) {
      if (absl::StrContains(line, text)) found = line;
    }
    return ended_ || !found.empty();
  };
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&there), timeout);
  return found;
}

int ChildProcess::Stop(int signal) {
  int status = 0;
  kill(pid_, signal);
  if (waitpid(std::exchange(pid_, 0), &status, 0) < 0) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

double CpuSeconds(pid_t pid) {
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  // Behind the name, which may have spaces: state is field 3, utime and stime are 14 and 15.
  std::istringstream fields(text.substr(std::min(text.rfind(')') + 1, text.size())));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

ProcessFigures ReadFigures(pid_t pid, const std::string& folder) {
  ProcessFigures figures;
  figures.cpu_seconds = CpuSeconds(pid);
  const std::string proc = absl::StrCat("/proc/", pid);
  std::ifstream memory(proc + "/smaps_rollup");
  for (std::string line; std::getline(memory, line);) {
    std::istringstream fields(line);
    std::string name;
    uint64_t kilobytes = 0;
    fields >> name >> kilobytes;
    if (name == "Anonymous:") figures.anonymous_bytes = kilobytes << 10;
    if (name == "Pss_Shmem:") figures.shared_bytes = kilobytes << 10;
  }
  // Threads and descriptors come and go while the folders are read.
  std::error_code ignored;
  for (auto at = fs::directory_iterator(proc + "/task", ignored); at != fs::directory_iterator();
       at.increment(ignored)) {
    ++figures.threads;
  }
  for (auto at = fs::directory_iterator(proc + "/fd", ignored); at != fs::directory_iterator();
       at.increment(ignored)) {
    const std::string target = fs::read_symlink(at->path(), ignored).string();
    ++(!folder.empty() && absl::StartsWith(target, folder) ? figures.files : figures.descriptors);
  }
  return figures;
}

std::string FirstFile(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    if (fs::is_regular_file(path)) return path;
  }
  return paths.back();
}

std::string BuiltServer() {
  return FirstFile(
      {"cache_server/tessera_cache_server", "bazel-bin/cache_server/tessera_cache_server"});
}

ScratchFolder::ScratchFolder(const std::string& parent) : path_(parent + "/tessera-XXXXXX") {
  PCHECK(mkdtemp(path_.data()) != nullptr) << path_;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace tessera::bench
