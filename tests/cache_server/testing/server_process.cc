#include "tests/cache_server/testing/server_process.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

namespace tessera::testing {

ServerProcess::ServerProcess(const std::string& listen, const std::vector<std::string>& flags) {
  std::vector<std::string> arguments = {"cache_server/tessera_cache_server", "--listen=" + listen};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  pid_ = fork();
  if (pid_ == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(ends[1]);
  pipe_ = ends[0];
  ReadUntilReady(pipe_);
}

ServerProcess::~ServerProcess() {
  if (pid_ > 0) {
    Signal(SIGKILL);
    Wait();
  }
  close(pipe_);
}

void ServerProcess::ReadUntilReady(int pipe) {
  const std::string mark = " port=";
  char letter;
  while (read(pipe, &letter, 1) == 1) {
    output_ += letter;
    if (letter != '\n' || output_.find("event=ready") == std::string::npos) continue;
    port_ = std::atoi(output_.c_str() + output_.find(mark) + mark.size());
    return;
  }
}

void ServerProcess::Signal(int signal) {
  if (pid_ <= 0) return;
  kill(pid_, signal);
  // The signal is only on its way yet: its threads run on until each has seen it.
  int status = 0;
  if (signal == SIGSTOP) waitpid(pid_, &status, WUNTRACED);
}

int ServerProcess::Wait() {
  int status = 0;
  if (pid_ <= 0 || waitpid(pid_, &status, 0) != pid_) return -1;
  pid_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace tessera::testing
