// One WatchChunks call as gRPC sees it. Includes gRPC: only for the service's .cc files.
#ifndef TESSERA_GPU_WORKER_SERVE_WATCH_CALL_H_
#define TESSERA_GPU_WORKER_SERVE_WATCH_CALL_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gpu_worker/blend/resident_chunks.h"
#include "proto/worker.pb.h"

namespace tessera {

// Deletes itself when gRPC is done with it. At most one message is on its way to the client; what
// changes meanwhile waits in the watch, which is bounded. Thread-safe.
class WatchCall final : public grpc::ServerWriteReactor<worker::v1::ChunkChanges> {
 public:
  // Hashes in one message.
  static constexpr size_t kMostHashes = 4096;

  // residents: must outlive the call.
  explicit WatchCall(ResidentChunks* residents);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  ~WatchCall() override = default;
  void WriteNext();

  absl::Mutex mutex_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // Finish was called, or will be after the write
  worker::v1::ChunkChanges message_ ABSL_GUARDED_BY(mutex_);
  // Ends first, not under mutex_: until then it calls us.
  std::unique_ptr<ResidentChunks::Watch> watch_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_WATCH_CALL_H_
