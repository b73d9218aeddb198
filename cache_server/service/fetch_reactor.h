// The server's side of one Fetch. Includes gRPC: only for service/'s .cc files.
#ifndef TESSERA_CACHE_SERVER_SERVICE_FETCH_REACTOR_H_
#define TESSERA_CACHE_SERVER_SERVICE_FETCH_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cache_server/service/fetch_pieces.h"
#include "cache_server/service/stream_watch.h"
#include "cache_server/service/transport_counters.h"

namespace tessera {

// Sends the header, then the slices layer-major, one message at a time; waits for pieces that are
// still being loaded, and takes back those that could not be. The pieces are pinned until the
// stream ends; gRPC pins what it still has to send beyond that. Deletes itself.
class FetchReactor : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public WatchedStream {
 public:
  // `watch` has already let it in through Enter.
  FetchReactor(grpc::CallbackServerContext* context, StreamWatch* watch, size_t message_bytes,
               absl::Duration lease, TransportCounters* counters, std::string request_id);

  // Starts to send. Call once, when the watch has let it in.
  void Start(std::shared_ptr<FetchPieces> pieces);
  // Ends the stream; for a reactor that the watch did not let in.
  void Refuse(const grpc::Status& status);

  void CheckDeadline(absl::Time now) override;

 private:
  // What a loader that has news finds this reactor by. Nothing is being written while it is parked,
  // and whoever takes it out of the park (a loader, or a cancellation) is the only one to go on; so
  // the reactor lives as long as it is parked.
  struct Doorbell {
    explicit Doorbell(FetchReactor* parked_reactor) : reactor(parked_reactor) {}
    FetchReactor* const reactor;
    absl::Mutex mutex;
    bool parked ABSL_GUARDED_BY(mutex) = false;
  };

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void SendHeader();
  // Sends the next message, or waits until it can.
  void SendNext();
  void SendSlice();
  // Moves on to the next slice to send, from the current position on. False: there is none.
  bool FindSlice();
  // True: the current piece is loading, and SendNext is called when that is over; or the stream has
  // ended. False: it is over already.
  bool Park();
  void Touch();

  grpc::CallbackServerContext* const context_;
  StreamWatch* const watch_;
  const size_t message_bytes_;
  const absl::Duration lease_;
  TransportCounters* const counters_;
  const std::shared_ptr<Doorbell> doorbell_;
  const std::string request_id_;  // for the log
  const absl::Time started_ = absl::Now();
  bool entered_ = false;
  std::shared_ptr<FetchPieces> pieces_;
  uint32_t layers_ = 0;  // of the deepest piece

  // The next part: of this layer, of this piece, from this offset.
  uint32_t layer_ = 0;
  size_t piece_ = 0;
  uint64_t offset_ = 0;
  size_t told_lost_ = 0;  // lost pieces that the reader knows of
  uint64_t sent_bytes_ = 0;

  grpc::ByteBuffer message_;  // must stay until it is written
  std::atomic<int64_t> last_progress_ns_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_FETCH_REACTOR_H_
