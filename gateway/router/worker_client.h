// One worker, as the gateway sees it: four calls, none with a thread of its own.
#ifndef TESSERA_GATEWAY_ROUTER_WORKER_CLIENT_H_
#define TESSERA_GATEWAY_ROUTER_WORKER_CLIENT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/worker.pb.h"

namespace tessera {

// Receives the events of one Generate call, one at a time, on threads of the RPC library. Must not
// wait in them.
class GenerateListener {
 public:
  virtual ~GenerateListener() = default;

  virtual void OnEvent(const worker::v1::GenerateResponse& event) = 0;

  // The last call, exactly once. The call object may be destroyed in it or after it.
  virtual void OnDone(absl::Status status) = 0;
};

// A call that is running.
class WorkerCall {
 public:
  // Only after its last callback, or from within it.
  virtual ~WorkerCall() = default;

  // Asks the worker to stop. Thread-safe, never waits, may come at any time before destruction; the
  // last callback still comes, then with CANCELLED unless the call had ended before.
  virtual void Cancel() = 0;

  // Address of the worker that has the request now, or had it last; for logs. Empty: not known.
  // Thread-safe.
  virtual std::string worker() const { return {}; }
};

// Thread-safe. Must live until the last callback of each of its calls.
class WorkerClient {
 public:
  using ModelCallback = std::function<void(absl::StatusOr<worker::v1::GetModelResponse>)>;

  using ChunkCallback = std::function<void(absl::StatusOr<worker::v1::PrefillChunkResponse>)>;

  using ChangesCallback = std::function<void(const worker::v1::ChunkChanges&)>;
  using DoneCallback = std::function<void(absl::Status)>;

  virtual ~WorkerClient() = default;

  virtual const std::string& address() const = 0;

  // Asks what the worker serves; `done` is called once, never on this thread from within this call.
  virtual std::unique_ptr<WorkerCall> GetModel(absl::Time deadline, ModelCallback done) = 0;

  // Starts a request. `listener` must live until its OnDone. Callbacks may come before this
  // returns, but never on this thread from within it. Statuses are the worker's own; UNAVAILABLE
  // when it cannot be reached, DEADLINE_EXCEEDED at `deadline`.
  virtual std::unique_ptr<WorkerCall> Generate(const worker::v1::GenerateRequest& request,
                                               absl::Time deadline, GenerateListener* listener) = 0;

  // Has a chunk computed and stored; `done` is called once, with statuses as Generate's. It may be
  // called before this returns, but never on this thread from within it.
  virtual std::unique_ptr<WorkerCall> PrefillChunk(const worker::v1::PrefillChunkRequest& request,
                                                   absl::Time deadline, ChunkCallback done) = 0;

  // Is told which chunks the worker has in memory, until the call is cancelled or fails; `done` is
  // the last callback, once. Callbacks as Generate's. UNIMPLEMENTED: an older worker.
  virtual std::unique_ptr<WorkerCall> WatchChunks(ChangesCallback on_changes,
                                                  DoneCallback done) = 0;
};

// A client by gRPC, "host:port", without TLS. Connects lazily and again after every failure.
std::unique_ptr<WorkerClient> ConnectWorker(const std::string& address);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ROUTER_WORKER_CLIENT_H_
