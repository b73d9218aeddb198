// One connection to a server's shared memory.
#ifndef TESSERA_CACHE_SERVER_CLIENT_SHM_CONNECTION_H_
#define TESSERA_CACHE_SERVER_CLIENT_SHM_CONNECTION_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/chunk/shared_memory.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/transfer/shm_wire.h"
#include "cache_server/transfer/unix_socket.h"

namespace tessera {

// What all connections to one server share.
struct ShmMapping {
  ShmMapping() = default;
  ~ShmMapping() {
    if (told != nullptr) told->Unmapped(memory->data());
  }
  ShmMapping(const ShmMapping&) = delete;
  ShmMapping& operator=(const ShmMapping&) = delete;

  // Before others share it.
  void Tell(ReadMemory* reader) const {
    if (reader == nullptr || told != nullptr) return;
    reader->Mapped(memory->data(), memory->size());
    told = reader;
  }

  std::shared_ptr<SharedMemory> memory;
  std::shared_ptr<SharedMemory> lease_table;
  ShmWelcome welcome;
  mutable ReadMemory* told = nullptr;  // of this mapping
};

// Where a server listens, and which one it is.
struct ShmAddress {
  std::string socket;
  std::string instance_id;
  std::string token;  // to send; empty: none
};

// For one call at a time. Send and Shutdown may come from any thread, Receive from one at a time.
class ShmConnection {
 public:
  // Connects, says hello, and maps what the server shows; `known`, if it is the same memory. The
  // socket must belong to this user or to root. NOT_FOUND: there is no such socket here.
  // UNAVAILABLE and others: no connection; the message says why.
  static absl::StatusOr<std::unique_ptr<ShmConnection>> Open(
      const ShmAddress& address, std::shared_ptr<const ShmMapping> known, absl::Time deadline);

  const std::shared_ptr<const ShmMapping>& mapping() const { return mapping_; }

  // The socket, to be watched for what can be received.
  int socket() const { return socket_.get(); }

  // A number for the next call.
  uint64_t NextCall() { return ++last_call_; }

  // Says which request the next calls are for; empty, or an id that could not be sent
  // (CallOptions): for none. Sends nothing when that was said last. Errors as SendPacket.
  absl::Status NameRequest(const std::string& request_id, absl::Time deadline);

  // Errors as SendPacket.
  absl::Status Send(const ShmPacket& packet, absl::Time deadline);
  // The next packet, valid until the next Receive. Errors as ReceivePacket.
  absl::StatusOr<absl::Span<const std::byte>> Receive(absl::Time deadline);

  // Memory for pieces to put, made and shown to the server at the first call.
  absl::StatusOr<SharedMemory*> Staging(absl::Time deadline);

  // Ends the connection; who waits in Receive wakes.
  void Shutdown();

 private:
  explicit ShmConnection(OwnedFd socket)
      : socket_(std::move(socket)), buffer_(kMaxShmPacketBytes) {}
  absl::Status Greet(const ShmAddress& address, std::shared_ptr<const ShmMapping> known,
                     absl::Time deadline);
  absl::Status Map(OwnedFd memory, OwnedFd lease_table, const ShmWelcome& welcome);

  const OwnedFd socket_;
  std::shared_ptr<const ShmMapping> mapping_;
  uint64_t last_call_ = 0;
  std::string request_id_;  // as the server knows it
  ShmPacket buffer_;
  std::shared_ptr<SharedMemory> staging_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_SHM_CONNECTION_H_
