#include "cache_server/client/shm_connection.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cache_server/client/request_id.h"
#include "cache_server/transfer/lease_table.h"

namespace tessera {
namespace {

// Pieces that are larger go over gRPC.
constexpr uint64_t kStagingBytes = uint64_t{64} << 20;
const std::string kNoRequest;

bool IsSameFile(int a, int b) {
  struct stat first = {}, second = {};
  return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShmConnection>> ShmConnection::Open(
    const ShmAddress& address, std::shared_ptr<const ShmMapping> known, absl::Time deadline) {
  // A server on another machine names a path that means nothing here.
  if (access(address.socket.c_str(), F_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("there is no socket ", address.socket));
  }
  ASSIGN_OR_RETURN(OwnedFd socket, ConnectToPath(address.socket));
  ASSIGN_OR_RETURN(const uid_t server, PeerUid(socket.get()));
  if (server != geteuid() && server != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(address.socket, " belongs to another user, ", server));
  }
  auto connection = std::unique_ptr<ShmConnection>(new ShmConnection(std::move(socket)));
  RETURN_IF_ERROR(connection->Greet(address, std::move(known), deadline));
  return connection;
}

absl::Status ShmConnection::Greet(const ShmAddress& address,
                                  std::shared_ptr<const ShmMapping> known, absl::Time deadline) {
  RETURN_IF_ERROR(Send(MakeShmText(ShmType::kHello, kShmVersion, address.token), deadline));
  ASSIGN_OR_RETURN(ReceivedPacket packet,
                   ReceivePacket(socket_.get(), absl::MakeSpan(buffer_), deadline));
  const auto bytes = absl::MakeConstSpan(buffer_).first(packet.bytes);
  ASSIGN_OR_RETURN(const ShmHead head, ReadShmHead(bytes));
  if (head.type == static_cast<uint32_t>(ShmType::kFailed)) {
    ASSIGN_OR_RETURN(const std::string why, ReadShmText(bytes));
    return absl::PermissionDeniedError(absl::StrCat("the server refused: ", why));
  }
  if (head.type != static_cast<uint32_t>(ShmType::kWelcome) || packet.fds.size() != 2) {
    return absl::InvalidArgumentError("no welcome");
  }
  ASSIGN_OR_RETURN(const ShmWelcome welcome, ReadShmFixed<ShmWelcome>(bytes));
  if (welcome.instance != ShmName<32>(address.instance_id)) {
    return absl::NotFoundError(absl::StrCat(address.socket, " belongs to another server"));
  }
  if (known != nullptr && IsSameFile(known->memory->fd(), packet.fds[0].get()) &&
      IsSameFile(known->lease_table->fd(), packet.fds[1].get())) {
    mapping_ = std::move(known);
    return absl::OkStatus();
  }
  return Map(std::move(packet.fds[0]), std::move(packet.fds[1]), welcome);
}

absl::Status ShmConnection::Map(OwnedFd memory, OwnedFd lease_table, const ShmWelcome& welcome) {
  auto mapping = std::make_shared<ShmMapping>();
  mapping->welcome = welcome;
  ASSIGN_OR_RETURN(mapping->memory, SharedMemory::Attach(memory.Release()));
  ASSIGN_OR_RETURN(mapping->lease_table, SharedMemory::Attach(lease_table.Release()));
  if (mapping->memory->size() < welcome.memory_bytes || welcome.lease_ms == 0 ||
      mapping->lease_table->size() / LeaseTable::kSlotBytes < welcome.lease_slots) {
    return absl::InvalidArgumentError("the server shows less memory than it says");
  }
  mapping_ = std::move(mapping);
  return absl::OkStatus();
}

absl::Status ShmConnection::NameRequest(const std::string& request_id, absl::Time deadline) {
  const std::string& id = IsSendableId(request_id) ? request_id : kNoRequest;
  if (id == request_id_) return absl::OkStatus();
  RETURN_IF_ERROR(Send(MakeShmText(ShmType::kRequest, 0, id), deadline));
  request_id_ = id;
  return absl::OkStatus();
}

absl::Status ShmConnection::Send(const ShmPacket& packet, absl::Time deadline) {
  return SendPacket(socket_.get(), packet, {}, deadline);
}

absl::StatusOr<absl::Span<const std::byte>> ShmConnection::Receive(absl::Time deadline) {
  ASSIGN_OR_RETURN(const ReceivedPacket packet,
                   ReceivePacket(socket_.get(), absl::MakeSpan(buffer_), deadline));
  return absl::MakeConstSpan(buffer_).first(packet.bytes);
}

absl::StatusOr<SharedMemory*> ShmConnection::Staging(absl::Time deadline) {
  if (staging_ != nullptr) return staging_.get();
  ASSIGN_OR_RETURN(std::shared_ptr<SharedMemory> memory,
                   SharedMemory::Create(kStagingBytes, false));
  const int fds[] = {memory->fd()};
  RETURN_IF_ERROR(SendPacket(socket_.get(), MakeShmPacket(ShmType::kStaging, 0), fds, deadline));
  staging_ = std::move(memory);
  return staging_.get();
}

void ShmConnection::Shutdown() { shutdown(socket_.get(), SHUT_RDWR); }

}  // namespace tessera
