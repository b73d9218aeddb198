// One PrefillChunk call as gRPC sees it. Includes gRPC: only for the service's .cc files.
#ifndef TESSERA_GPU_WORKER_SERVE_CHUNK_CALL_H_
#define TESSERA_GPU_WORKER_SERVE_CHUNK_CALL_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel_flag.h"
#include "gpu_worker/serve/chunk_work.h"
#include "proto/worker.pb.h"

namespace tessera {

// gRPC owns it by `self_` until OnDone; who computes and stores holds it as long as it may be told
// something. A cancelled call ends at once, whatever its work is waiting for. Thread-safe.
class ChunkCall final : public grpc::ServerUnaryReactor,
                        public std::enable_shared_from_this<ChunkCall> {
 public:
  // response: gRPC's, until OnDone.
  explicit ChunkCall(worker::v1::PrefillChunkResponse* response)
      : response_(response), cancelled_(std::make_shared<CancelFlag>()) {}

  void HoldUntilDone() { self_ = shared_from_this(); }
  std::shared_ptr<CancelFlag> cancelled() const { return cancelled_; }

  // The first one counts.
  void End(const absl::StatusOr<ChunkReport>& report);

  void OnCancel() override;
  void OnDone() override { self_.reset(); }

 private:
  worker::v1::PrefillChunkResponse* const response_;
  const std::shared_ptr<CancelFlag> cancelled_;
  std::shared_ptr<ChunkCall> self_;
  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // response_ may be gone
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_CHUNK_CALL_H_
