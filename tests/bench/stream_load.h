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
  // `body` is what each asks of /v1/completions, with "stream": true; every answer has `tokens`
  // tokens, an event each, and one more for its end. `clock` must outlive it.
  StreamLoad(int port, size_t streams, const std::string& body, size_t tokens,
             const StubClock* clock);
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
    size_t events = 0;
    Clock::time_point sent;
  };

  void Ask(Client& client);
  // True when the stream has ended.
  bool Read(size_t slot, std::vector<Ttft>* samples);

  const StubClock& clock_;
  const size_t answer_tokens_;
  std::vector<Client> clients_;
  int epoll_ = -1;
  size_t tokens_ = 0;
};

// Streams that have begun, and then nobody says anything. For one thread.
class IdleStreams {
 public:
  // `body` as StreamLoad's; the worker must begin to answer it, and stop.
  IdleStreams(int port, std::string body) : port_(port), body_(std::move(body)) {}
  ~IdleStreams();
  IdleStreams(const IdleStreams&) = delete;
  IdleStreams& operator=(const IdleStreams&) = delete;

  // Opens so many more, one after the other. Each has begun when this returns.
  void Open(size_t count);

  // Reads what has come since. Ends the program when a stream has ended, or got anything but
  // comments. Returns the comments.
  size_t Drain();

 private:
  const int port_;
  const std::string body_;
  std::vector<int> sockets_;
};

}  // namespace tessera::bench

#endif  // TESSERA_TESTS_BENCH_STREAM_LOAD_H_
