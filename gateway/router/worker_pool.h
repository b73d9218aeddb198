// The workers of this gateway: which of them are up, what they serve, and which takes a request.
#ifndef TESSERA_GATEWAY_ROUTER_WORKER_POOL_H_
#define TESSERA_GATEWAY_ROUTER_WORKER_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/router/affinity.h"
#include "gateway/router/rendezvous.h"
#include "gateway/router/worker_client.h"
#include "proto/worker.pb.h"

namespace tessera {

struct WorkerPoolOptions {
  // Workers that are known at a time, those that left with requests running included.
  size_t max_workers = 1024;
  // Requests that run on one worker at a time; past it on all workers, RESOURCE_EXHAUSTED.
  size_t max_in_flight = 1024;
  // A worker this many requests busier than the idlest is no longer preferred for its chunks.
  size_t slack = 8;
  // Workers that one request may be sent to, one after the other, while none has answered.
  size_t max_attempts = 3;
  // Chunks of which is remembered which workers have them in memory; about 128 bytes each. 0: the
  // hash alone decides.
  size_t affinity_chunks = 65536;
  // How often a worker that is up, or one that is not, is asked what it serves.
  absl::Duration poll_up = absl::Seconds(2);
  absl::Duration poll_down = absl::Milliseconds(250);
  // A worker that does not say what it serves within this is not up.
  absl::Duration poll_deadline = absl::Seconds(10);
  // A worker that turned a request away with UNAVAILABLE but still says what it serves (it drains)
  // is a last resort for so long.
  absl::Duration set_aside = absl::Seconds(5);
  // Answers that have begun are given up when their worker was silent for so long; a connection
  // that breaks ends them at once.
  absl::Duration give_up = absl::Seconds(30);
};

// One worker, as /cluster and the metrics show it.
struct WorkerState {
  std::string address;
  // It says what it serves. The rest is empty or false while it does not, but for in_flight.
  bool ready = false;
  size_t in_flight = 0;
  std::string model;
  std::string device;
  uint32_t max_len = 0;
  // Requests there, of all gateways, when it was last asked.
  uint32_t running = 0;
  uint32_t waiting = 0;
  bool blend_enabled = false;
  // It tells which chunks it has in memory.
  bool tells_chunks = false;
};

// Since the start.
struct RoutingTotals {
  // Attempts after a request's first.
  uint64_t retries = 0;
  // Times that a worker which was ready was not any more.
  uint64_t lost_workers = 0;
  // Requests by why they went where they went first: it had chunks of theirs in memory, their
  // hashes pointed there, or it was the idlest.
  uint64_t by_affinity = 0;
  uint64_t by_hash = 0;
  uint64_t by_load = 0;
};

// Thread-safe. Every worker is asked again and again what it serves; one that answers is ready, one
// that does not, or that fails a request with UNAVAILABLE, is not until it answers again. The pool
// serves one model: that of the first ready worker; ready workers with another are left alone.
//
// Requests go to the worker that has most of their chunk tokens in memory (RankWorkers). Every
// ready worker is asked to tell which chunks those are. Of one that tells, its own word alone
// counts; of one that does not, or not yet, a chunk is guessed to be there when it says that it has
// started a request with it, or that it has computed it. All of it is forgotten when another
// process answers at that address.
//
// While nothing of an answer has come, a worker that fails with UNAVAILABLE or RESOURCE_EXHAUSTED
// is replaced by the next one, and so is one that stops answering polls when another is ready.
class WorkerPool {
 public:
  WorkerPool(std::vector<std::unique_ptr<WorkerClient>> workers, const WorkerPoolOptions& options);

  // Every call must have ended.
  ~WorkerPool();

  // Starts asking. Call once.
  void Start();

  // From now on these are the workers, "host:port", an address given twice being one. Those that
  // were known before go on as they are. One that is no longer named gets no new request, and is
  // asked on only while a request runs there. What max_workers leaves no room for is logged and
  // left out; said again, it may find some.
  void SetAddresses(const std::vector<std::string>& addresses);

  // Waits until every worker has answered or failed once, for `timeout` at most.
  void AwaitFirstAnswers(absl::Duration timeout) const;

  bool ready() const { return Model().has_value(); }

  // What the ready workers serve; nothing while none is ready.
  std::optional<worker::v1::GetModelResponse> Model() const;

  // Of the workers that are named now: in the order they were given, until one takes another's
  // place.
  std::vector<WorkerState> States() const;
  RoutingTotals Totals() const;

  // Starts a request on the best worker. `listener` gets the events of the one that answered, and
  // must live until its OnDone. Callbacks never come from within this call. Errors, without a call
  // to the listener: UNAVAILABLE (no worker is ready), RESOURCE_EXHAUSTED (all have max_in_flight
  // requests).
  absl::StatusOr<std::unique_ptr<WorkerCall>> Generate(worker::v1::GenerateRequest request,
                                                       absl::Time deadline,
                                                       GenerateListener* listener);

  // Has a chunk computed and stored by the worker that Generate would prefer for it. `done` is
  // called once, on a thread of the RPC library; it must not wait, and may destroy the call, which
  // otherwise must live until then. Errors as Generate's, without a call to `done`.
  absl::StatusOr<std::unique_ptr<WorkerCall>> PrefillChunk(worker::v1::PrefillChunkRequest request,
                                                           absl::Time deadline,
                                                           WorkerClient::ChunkCallback done);

 private:
  // A request and its attempts (routed_call.h).
  class RoutedCall;
  class RoutedGenerate;
  class RoutedPrefill;

  // What one request has running on a worker.
  struct Attempt {
    WorkerCall* call = nullptr;
    bool answered = false;   // something of the answer has come
    bool abandoned = false;  // the pool cancelled it
  };

  // A worker keeps its number. One that is no longer named leaves its place to another when
  // nothing that knows the number runs any more.
  struct Worker {
    std::unique_ptr<WorkerClient> client;
    bool named = true;                                  // false: it gets no new request
    std::optional<worker::v1::GetModelResponse> model;  // absent: not ready
    std::string instance_id;                            // of the last answer
    size_t in_flight = 0;
    absl::flat_hash_map<const RoutedCall*, Attempt> attempts;
    std::unique_ptr<WorkerCall> poll;  // absent: not being asked
    absl::Time next_poll = absl::InfinitePast();
    absl::Time last_answer = absl::InfinitePast();
    absl::Time avoid_until = absl::InfinitePast();
    bool polled = false;                // has answered or failed once
    std::unique_ptr<WorkerCall> watch;  // absent: it is not asked to tell its chunks
    bool tells = false;                 // it has told them, and tells every change
    bool never_tells = false;           // this process does not know the question
  };

  // Errors when the call has no worker to start on.
  static absl::Status StartFirst(RoutedCall* call);

  const worker::v1::GetModelResponse* FirstModel() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ready and of the pool's model.
  std::vector<size_t> Serving() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Those, best first, by worker number. `chunks` come without holders.
  std::vector<RankedWorker> Candidates(std::vector<ChunkVote> chunks) const
      ABSL_LOCKS_EXCLUDED(mutex_);

  // The number for a worker that was not known; nothing when there is no room.
  std::optional<size_t> FreePlace() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetNamed(size_t index, bool named) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // One attempt, from here to Release. Null when the worker has no room or is not ready any more.
  WorkerClient* Reserve(const RankedWorker& worker, bool is_retry) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetRunning(size_t index, const RoutedCall* routed, WorkerCall* attempt)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Something of the answer has come: it can no longer be sent elsewhere. False: the pool has
  // given this attempt up already, so what came must be dropped.
  bool SetAnswered(size_t index, const RoutedCall* routed) ABSL_LOCKS_EXCLUDED(mutex_);
  // The worker has started with these: so it has them in memory, if it does not tell itself.
  void Learn(size_t index, const std::vector<ChunkVote>& chunks) ABSL_LOCKS_EXCLUDED(mutex_);
  // `status` is what the attempt ended with. Returns whether the pool had given it up.
  bool Release(size_t index, const RoutedCall* routed, const absl::Status& status)
      ABSL_LOCKS_EXCLUDED(mutex_);

  void PollLoop();
  void StartPoll(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnPolled(size_t index, absl::StatusOr<worker::v1::GetModelResponse> model)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void StartWatch(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnChunkChanges(size_t index, const worker::v1::ChunkChanges& changes)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void OnWatchEnded(size_t index, const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetModel(size_t index, worker::v1::GetModelResponse model)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Cancels what waits for a worker that does not answer.
  void Abandon(Worker& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkLost(Worker& worker, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const WorkerPoolOptions options_;
  mutable absl::Mutex mutex_;
  std::vector<Worker> workers_ ABSL_GUARDED_BY(mutex_);
  AffinityTable affinity_ ABSL_GUARDED_BY(mutex_);
  RoutingTotals totals_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Something happened that makes the poll loop look at next_poll again.
  bool poll_soon_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread poller_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ROUTER_WORKER_POOL_H_
