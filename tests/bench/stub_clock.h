// When the stub worker got each request, and when it began to answer.
#ifndef TESSERA_TESTS_BENCH_STUB_CLOCK_H_
#define TESSERA_TESTS_BENCH_STUB_CLOCK_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

namespace tessera::bench {

using Clock = std::chrono::steady_clock;

// One request's first token, in seconds: from the client's send to the stub, in the stub, and from
// there to the client's read. Stub and client are one process, so one clock.
struct Ttft {
  double there = 0;
  double stub = 0;
  double back = 0;

  // What lies between client and stub.
  double added() const { return there + back; }
};

// Thread-safe. Requests are told apart by slots: one has one request at a time, and its id names
// it.
class StubClock {
 public:
  explicit StubClock(size_t slots) : received_(slots), started_(slots) {}

  static std::string IdOf(size_t slot) { return "slot-" + std::to_string(slot); }

  // For StubBehaviour; ids of others are passed over.
  void Receive(const std::string& id) { Stamp(id, &received_); }
  void Start(const std::string& id) { Stamp(id, &started_); }

  // Once the client has read its first token.
  Ttft Measure(size_t slot, Clock::time_point sent, Clock::time_point first) const {
    const Clock::time_point received(Clock::duration(received_[slot].load()));
    const Clock::time_point started(Clock::duration(started_[slot].load()));
    return {Seconds(received - sent), Seconds(started - received), Seconds(first - started)};
  }

 private:
  using Times = std::vector<std::atomic<Clock::rep>>;

  static double Seconds(Clock::duration duration) {
    return std::chrono::duration<double>(duration).count();
  }

  static void Stamp(const std::string& id, Times* times) {
    if (id.compare(0, 5, "slot-") != 0) return;
    const size_t slot = std::strtoul(id.c_str() + 5, nullptr, 10);
    if (slot < times->size()) (*times)[slot] = Clock::now().time_since_epoch().count();
  }

  Times received_;
  Times started_;
};

}  // namespace tessera::bench

#endif  // TESSERA_TESTS_BENCH_STUB_CLOCK_H_
