// Packets over a Unix socket (SOCK_SEQPACKET), with descriptors.
#ifndef TESSERA_CACHE_SERVER_TRANSFER_UNIX_SOCKET_H_
#define TESSERA_CACHE_SERVER_TRANSFER_UNIX_SOCKET_H_

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace tessera {

// A descriptor that is closed with its owner. Move-only.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  ~OwnedFd() { Reset(); }
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    if (this != &other) {
      Reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Hands the descriptor to the caller.
  int Release() { return std::exchange(fd_, -1); }
  void Reset();

 private:
  int fd_ = -1;
};

// Listens on a socket file that only this user may connect to (mode 0600 from the start). A file
// that a server which is gone has left is replaced. The socket does not block.
// INVALID_ARGUMENT: the path is empty or too long. UNAVAILABLE: a server listens there.
// FAILED_PRECONDITION: something else is there, or the folder cannot be written to.
absl::StatusOr<OwnedFd> ListenOnPath(const std::string& path, int backlog);

// A connection to who listens there. Never waits. UNAVAILABLE: nobody does, or it is too busy.
absl::StatusOr<OwnedFd> ConnectToPath(const std::string& path);

// Who is at the other end: its user, when it connected or began to listen.
absl::StatusOr<uid_t> PeerUid(int socket);

// Sends one packet, with copies of at most 4 descriptors. Waits for room until `deadline`.
// DEADLINE_EXCEEDED: there was none; nothing was sent. UNAVAILABLE: the connection is gone.
absl::Status SendPacket(int socket, absl::Span<const std::byte> bytes, absl::Span<const int> fds,
                        absl::Time deadline);

struct ReceivedPacket {
  size_t bytes = 0;  // at the start of the buffer; never 0
  std::vector<OwnedFd> fds;
};

// Waits for one packet until `deadline`. DEADLINE_EXCEEDED: none came. UNAVAILABLE: the connection
// has ended. INVALID_ARGUMENT: it is larger than the buffer, or has more than 4 descriptors.
absl::StatusOr<ReceivedPacket> ReceivePacket(int socket, absl::Span<std::byte> buffer,
                                             absl::Time deadline);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TRANSFER_UNIX_SOCKET_H_
