// One Store RPC. Includes gRPC: only for the client's .cc files.
#ifndef TESSERA_CACHE_SERVER_CLIENT_STORE_CALL_H_
#define TESSERA_CACHE_SERVER_CLIENT_STORE_CALL_H_

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/client/cache_client.h"
#include "proto/kv_cache.pb.h"

namespace tessera {

// Sends pieces, part by part, and waits for the server's count. Parts are copied into the messages:
// gRPC may hold a message after the call has ended, and the caller's memory does not last as long.
class StoreCall : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Starts the call. `sources` and their memory must live until Wait returns; call Wait once.
  StoreCall(grpc::GenericStub* stub, absl::Span<const StoreSource> sources, size_t part_bytes,
            absl::Time deadline, const std::string& token, const std::string& request_id);

  // Waits for the end. Errors: what the server said, or that it could not be reached.
  absl::StatusOr<cache::v1::StoreResponse> Wait();

 private:
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  void WriteNext();
  grpc::ByteBuffer NextMessage();
  grpc::ByteBuffer HeaderMessage() const;

  const absl::Span<const StoreSource> sources_;
  const size_t part_bytes_;
  grpc::ClientContext context_;

  // What is sent next; only touched by one of gRPC's threads at a time.
  size_t source_ = 0;
  bool header_sent_ = false;
  uint32_t layer_ = 0;
  uint64_t offset_ = 0;
  uint64_t checksum_ = 0;  // of the current slice
  grpc::ByteBuffer message_;

  grpc::ByteBuffer response_;
  grpc::Status status_;
  absl::Notification done_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_STORE_CALL_H_
