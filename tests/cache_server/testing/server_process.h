// The real cache server program, started and killed by tests.
#ifndef TESSERA_TESTS_CACHE_SERVER_TESTING_SERVER_PROCESS_H_
#define TESSERA_TESTS_CACHE_SERVER_TESTING_SERVER_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace tessera::testing {

// Runs cache_server/tessera_cache_server from the test's runfiles; killed at the latest by the
// destructor. For one thread.
class ServerProcess {
 public:
  // Returns when it says that it is ready, or has ended.
  explicit ServerProcess(const std::string& listen, const std::vector<std::string>& flags = {});
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  // 0: it has not become ready.
  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  // What it wrote to standard error until it was ready, or ended.
  const std::string& output() const { return output_; }

  // After SIGSTOP it has stopped when this returns; other signals are only sent.
  void Signal(int signal);
  // Waits for its end; its exit code, or -signal.
  int Wait();

 private:
  void ReadUntilReady(int pipe);

  pid_t pid_ = 0;
  int port_ = 0;
  int pipe_ = -1;
  std::string output_;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TESTING_SERVER_PROCESS_H_
