// The load of StreamLoad on the worker itself, by gRPC: what there is without a gateway.
#ifndef TESSERA_TESTS_BENCH_DIRECT_LOAD_H_
#define TESSERA_TESTS_BENCH_DIRECT_LOAD_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/worker.grpc.pb.h"
#include "proto/worker.pb.h"
#include "tests/bench/stub_clock.h"

namespace tessera::bench {

// One channel, as a gateway has it; its callbacks come on gRPC's threads. An answer that is not
// whole ends the program. For one thread.
class DirectLoad {
 public:
  // All streams ask `request`. `clock` must outlive it.
  DirectLoad(const std::string& address, const worker::v1::GenerateRequest& request,
             const StubClock* clock);
  // Cancels what is idle.
  ~DirectLoad();
  DirectLoad(const DirectLoad&) = delete;
  DirectLoad& operator=(const DirectLoad&) = delete;

  // Starts so many streams that the worker begins to answer, and does not end.
  void OpenIdle(size_t count);

  // As StreamLoad's, with so many streams.
  std::vector<Ttft> Run(size_t streams, absl::Duration ramp, absl::Duration duration);

 private:
  class Call;

  void Ask(size_t slot);
  void OnFirst(size_t slot, Clock::time_point sent) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone(size_t slot, const grpc::Status& status, size_t tokens) ABSL_LOCKS_EXCLUDED(mutex_);

  const worker::v1::GenerateRequest request_;
  const StubClock& clock_;
  const std::unique_ptr<worker::v1::Worker::Stub> stub_;
  std::vector<Call*> idle_;
  absl::Mutex mutex_;
  std::vector<Ttft> samples_ ABSL_GUARDED_BY(mutex_);
  Clock::time_point end_ ABSL_GUARDED_BY(mutex_);
  size_t open_ ABSL_GUARDED_BY(mutex_) = 0;  // calls
  size_t idle_begun_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera::bench

#endif  // TESSERA_TESTS_BENCH_DIRECT_LOAD_H_
