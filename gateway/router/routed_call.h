// One request of a WorkerPool and its attempts, one worker after the other.
#ifndef TESSERA_GATEWAY_ROUTER_ROUTED_CALL_H_
#define TESSERA_GATEWAY_ROUTER_ROUTED_CALL_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/router/worker_client.h"
#include "gateway/router/worker_pool.h"
#include "proto/worker.pb.h"

namespace tessera {

// Only the callbacks of the running attempt and Cancel touch it, so the lock is about those two.
// It is held while the pool's is taken, never the other way round.
class WorkerPool::RoutedCall : public WorkerCall {
 public:
  bool HasCandidates() const {
    absl::MutexLock lock(&mutex_);
    return !untried_.empty();
  }

  // Sends the request to the next worker with room. False when there is none, or after Cancel.
  bool StartNext();

  void Cancel() override;
  std::string worker() const override {
    absl::MutexLock lock(&mutex_);
    return address_;
  }

 protected:
  // `chunks` decide where it goes; with `learns` they are in the worker's memory once it served.
  RoutedCall(WorkerPool* pool, std::vector<ChunkVote> chunks, bool learns);

  // Sends the request to that worker.
  virtual std::unique_ptr<WorkerCall> Send(WorkerClient* worker) = 0;
  // The last thing that happens; may destroy this.
  virtual void Finish(const absl::Status& status) = 0;

  // For the attempt's callbacks. The first part of the answer is here; false when it must be
  // dropped, because the pool has given the attempt up.
  bool Answered();
  // The worker has the request's chunks in memory.
  void Served();
  // The attempt's last callback: another attempt, or Finish.
  void Ended(absl::Status status);

 private:
  size_t worker_index() const {
    // StartNext may still be storing the attempt that calls back already.
    absl::MutexLock lock(&mutex_);
    return worker_;
  }

  WorkerPool* const pool_;
  const std::vector<ChunkVote> chunks_;
  const bool learns_;
  bool answered_ = false;  // callbacks only

  mutable absl::Mutex mutex_;
  std::vector<RankedWorker> untried_ ABSL_GUARDED_BY(mutex_);
  size_t attempts_left_ ABSL_GUARDED_BY(mutex_) = 0;
  bool is_retry_ ABSL_GUARDED_BY(mutex_) = false;
  size_t worker_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string address_ ABSL_GUARDED_BY(mutex_);  // of worker_, which may be another's later
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<WorkerCall> attempt_ ABSL_GUARDED_BY(mutex_);
};

class WorkerPool::RoutedGenerate final : public RoutedCall, private GenerateListener {
 public:
  RoutedGenerate(WorkerPool* pool, worker::v1::GenerateRequest request, absl::Time deadline,
                 GenerateListener* listener);

 private:
  std::unique_ptr<WorkerCall> Send(WorkerClient* worker) override;
  void Finish(const absl::Status& status) override { listener_->OnDone(status); }
  void OnEvent(const worker::v1::GenerateResponse& event) override;
  void OnDone(absl::Status status) override { Ended(std::move(status)); }

  const worker::v1::GenerateRequest request_;
  const absl::Time deadline_;
  GenerateListener* const listener_;
};

class WorkerPool::RoutedPrefill final : public RoutedCall {
 public:
  RoutedPrefill(WorkerPool* pool, worker::v1::PrefillChunkRequest request, absl::Time deadline,
                WorkerClient::ChunkCallback done);

 private:
  std::unique_ptr<WorkerCall> Send(WorkerClient* worker) override;
  void Finish(const absl::Status& status) override;

  const worker::v1::PrefillChunkRequest request_;
  const absl::Time deadline_;
  WorkerClient::ChunkCallback done_;
  worker::v1::PrefillChunkResponse response_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ROUTER_ROUTED_CALL_H_
