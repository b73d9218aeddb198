// Many clients that stream completions through a gateway, on one thread.
#ifndef TESSERA_TESTS_BENCH_STREAM_LOAD_H_
#define TESSERA_TESTS_BENCH_STREAM_LOAD_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tests/bench/stub_clock.h"

namespace tessera::bench {

// Each client has one connection and asks again as soon as its stream has ended. An answer that is
// not a whole stream ends the program: nothing measured after it would count. For one thread.
class StreamLoad {
 public:
  // `body` is what each asks of /v1/completions, with "stream": true. `clock` must outlive it.
  StreamLoad(int port, size_t streams, const std::string& body, const StubClock* clock);
  ~StreamLoad();
  StreamLoad(const StreamLoad&) = delete;
  StreamLoad& operator=(const StreamLoad&) = delete;

  // Starts the clients one by one over `ramp`, and lets them ask until `duration` is over. Returns
  // when all streams have ended.
  std::vector<Ttft> Run(absl::Duration ramp, absl::Duration duration);

  // Of all runs.
  size_t tokens() const { return tokens_; }

 private:
  struct Client {
    int socket = -1;
    std::string request;
    std::string tail;  // what was read last, enough to see ends in it
    bool asking = false;
    bool first_seen = false;
    Clock::time_point sent;
  };

  void Ask(Client& client);
  // True when the stream has ended.
  bool Read(size_t slot, std::vector<Ttft>* samples);

  const StubClock& clock_;
  std::vector<Client> clients_;
  int epoll_ = -1;
  size_t tokens_ = 0;
};

}  // namespace tessera::bench

#endif  // TESSERA_TESTS_BENCH_STREAM_LOAD_H_
