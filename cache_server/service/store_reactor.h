// The server's side of one Store. Includes gRPC: only for service/'s .cc files.
#ifndef TESSERA_CACHE_SERVER_SERVICE_STORE_REACTOR_H_
#define TESSERA_CACHE_SERVER_SERVICE_STORE_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cache_server/service/piece_writer.h"
#include "cache_server/service/stream_watch.h"
#include "cache_server/service/transport_counters.h"

namespace tessera {

// Reads one message at a time into a PieceWriter. Deletes itself.
class StoreReactor : public grpc::ServerReadReactor<grpc::ByteBuffer>, public WatchedStream {
 public:
  StoreReactor(StreamWatch* watch, PieceWriter writer, absl::Time deadline,
               grpc::ByteBuffer* response, TransportCounters* counters, std::string request_id);

  // Starts to read. Call once, when the watch has let it in.
  void Start();
  // Ends the stream; for a reactor that the watch did not let in.
  void Refuse(const grpc::Status& status);

  void CheckDeadline(absl::Time now) override;

 private:
  void OnReadDone(bool ok) override;
  void OnDone() override;
  void OnCancel() override;

  absl::Status TakeMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishOnce(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  StreamWatch* const watch_;
  const absl::Time deadline_;
  grpc::ByteBuffer* const response_;
  TransportCounters* const counters_;
  const std::string request_id_;  // for the log
  const absl::Time started_ = absl::Now();
  bool entered_ = false;
  grpc::ByteBuffer message_;
  absl::Mutex mutex_;  // the watch may end the stream while a message is taken in
  PieceWriter writer_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_STORE_REACTOR_H_
