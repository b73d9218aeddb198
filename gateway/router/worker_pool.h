// The workers of this gateway: which of them are up, what they serve, and which takes a request.
#ifndef TESSERA_GATEWAY_ROUTER_WORKER_POOL_H_
#define TESSERA_GATEWAY_ROUTER_WORKER_POOL_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/router/worker_client.h"
#include "proto/worker.pb.h"

namespace tessera {

struct WorkerPoolOptions {
  // Requests that run on one worker at a time; past it on all workers, RESOURCE_EXHAUSTED.
  size_t max_in_flight = 1024;
  // A worker this many requests busier than the idlest is no longer preferred for its chunks.
  size_t slack = 8;
  // Workers that one request may be sent to, one after the other, while none has answered.
  size_t max_attempts = 3;
  // How often a worker that is up, or one that is not, is asked what it serves.
  absl::Duration poll_up = absl::Seconds(2);
  absl::Duration poll_down = absl::Milliseconds(250);
  // A worker that does not say what it serves within this is not up.
  absl::Duration poll_deadline = absl::Seconds(10);
};

// Thread-safe. Every worker is asked again and again what it serves; one that answers is ready, one
// that does not, or that fails a request with UNAVAILABLE, is not until it answers again. The pool
// serves one model: that of the first ready worker; ready workers with another are left alone.
class WorkerPool {
 public:
  WorkerPool(std::vector<std::unique_ptr<WorkerClient>> workers, const WorkerPoolOptions& options);

  // Every call must have ended.
  ~WorkerPool();

  // Starts asking. Call once.
  void Start();

  // Waits until every worker has answered or failed once, for `timeout` at most.
  void AwaitFirstAnswers(absl::Duration timeout) const;

  bool ready() const { return Model().has_value(); }

  // What the ready workers serve; nothing while none is ready.
  std::optional<worker::v1::GetModelResponse> Model() const;

  // Starts a request on the best worker. While no event of it has come, a worker that fails with
  // UNAVAILABLE or RESOURCE_EXHAUSTED is replaced by the next. `listener` gets the events of the
  // one that answered, and must live until its OnDone. Callbacks never come from within this call.
  // Errors, without a call to the listener: UNAVAILABLE (no worker is ready), RESOURCE_EXHAUSTED
  // (all have max_in_flight requests).
  absl::StatusOr<std::unique_ptr<WorkerCall>> Generate(worker::v1::GenerateRequest request,
                                                       absl::Time deadline,
                                                       GenerateListener* listener);

 private:
  class RoutedCall;

  struct Worker {
    std::unique_ptr<WorkerClient> client;
    std::optional<worker::v1::GetModelResponse> model;  // absent: not ready
    size_t in_flight = 0;
    std::unique_ptr<WorkerCall> poll;  // absent: not being asked
    absl::Time next_poll = absl::InfinitePast();
    bool polled = false;  // has answered or failed once
  };

  const worker::v1::GetModelResponse* FirstModel() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ready workers of the pool's model, best first.
  std::vector<size_t> Candidates(const worker::v1::GenerateRequest& request) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Counts one more request on that worker; null when it has no room or is not ready any more.
  WorkerClient* Reserve(size_t index) ABSL_LOCKS_EXCLUDED(mutex_);
  // One request less; `status` is what it ended with.
  void Release(size_t index, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  void PollLoop();
  void StartPoll(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnPolled(size_t index, absl::StatusOr<worker::v1::GetModelResponse> model)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void MarkLost(Worker& worker, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const WorkerPoolOptions options_;
  mutable absl::Mutex mutex_;
  std::vector<Worker> workers_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Something happened that makes the poll loop look at next_poll again.
  bool poll_soon_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread poller_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ROUTER_WORKER_POOL_H_
