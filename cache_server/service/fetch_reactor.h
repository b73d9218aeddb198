// The server's side of one Fetch. Includes gRPC: only for service/'s .cc files.
#ifndef TESSERA_CACHE_SERVER_SERVICE_FETCH_REACTOR_H_
#define TESSERA_CACHE_SERVER_SERVICE_FETCH_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "cache_server/chunk/key.h"
#include "cache_server/service/stream_watch.h"
#include "cache_server/store/chunk_store.h"

namespace tessera {

// Sends the header, then the slices layer-major, one message at a time. The pieces are pinned from
// the header on, until the stream ends; gRPC pins what it still has to send beyond that. Deletes
// itself.
class FetchReactor : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public WatchedStream {
 public:
  // `watch` has already let it in through Enter.
  FetchReactor(grpc::CallbackServerContext* context, StreamWatch* watch, size_t message_bytes,
               absl::Duration lease);

  // Pins the pieces and starts to send. Call once, when the watch has let it in.
  void Start(ChunkStore* store, const std::vector<ChunkKey>& keys);
  // Ends the stream; for a reactor that the watch did not let in.
  void Refuse(const grpc::Status& status);

  void CheckDeadline(absl::Time now) override;

 private:
  void OnWriteDone(bool ok) override;
  void OnDone() override;

  void SendHeader();
  void SendNext();
  // Moves on to the next slice to send, from the current position on. False: there is none.
  bool FindSlice();

  grpc::CallbackServerContext* const context_;
  StreamWatch* const watch_;
  const size_t message_bytes_;
  const absl::Duration lease_;
  bool entered_ = false;
  std::vector<std::optional<FoundPiece>> pieces_;  // one per key asked; nothing for a miss
  uint32_t layers_ = 0;                            // of the deepest piece

  // The next part: of this layer, of this piece, from this offset.
  uint32_t layer_ = 0;
  size_t piece_ = 0;
  uint64_t offset_ = 0;

  grpc::ByteBuffer message_;  // must stay until it is written
  std::atomic<int64_t> last_progress_ns_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_FETCH_REACTOR_H_
