// One Generate call as gRPC sees it. Includes gRPC: only for the service's .cc files.
#ifndef TESSERA_GPU_WORKER_SERVE_GENERATE_CALL_H_
#define TESSERA_GPU_WORKER_SERVE_GENERATE_CALL_H_

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <deque>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel_flag.h"
#include "gpu_worker/serve/generation.h"
#include "proto/worker.pb.h"

namespace tessera {

// gRPC owns it by `self_` until OnDone; the engine's listener holds it until OnFinished has
// returned. Thread-safe.
class GenerateCall final : public grpc::ServerWriteReactor<worker::v1::GenerateResponse>,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // Bytes that may wait to be read by the client; who reads more slowly is cut off.
  static constexpr size_t kMostUnread = size_t{64} << 20;

  GenerateCall() : cancelled_(std::make_shared<CancelFlag>()) {}

  void HoldUntilDone() { self_ = shared_from_this(); }
  // Set when nobody wants the answer any more.
  std::shared_ptr<CancelFlag> cancelled() const { return cancelled_; }

  void Send(worker::v1::GenerateResponse response);
  // Last, once.
  void End(const absl::Status& status);

  void OnWriteDone(bool ok) override;
  void OnCancel() override { cancelled_->Set(); }
  void OnDone() override { self_.reset(); }

 private:
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<CancelFlag> cancelled_;
  std::shared_ptr<GenerateCall> self_;
  absl::Mutex mutex_;
  std::deque<worker::v1::GenerateResponse> outgoing_ ABSL_GUARDED_BY(mutex_);
  size_t unread_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes of outgoing_
  bool too_slow_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;  // the first of outgoing_
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

// Puts what happens to a generation on the wire. prompt: of the generation that owns the listener.
std::unique_ptr<GenerationListener> MakeCallListener(std::shared_ptr<GenerateCall> call,
                                                     const BlendRequest* prompt);

grpc::Status ToGrpc(const absl::Status& status);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_GENERATE_CALL_H_
