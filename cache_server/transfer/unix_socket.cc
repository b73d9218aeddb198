#include "cache_server/transfer/unix_socket.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kMostFds = 4;

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("a socket's path must have 1 to ",
                                                   sizeof(address.sun_path) - 1,
                                                   " bytes; shorten it: ", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<OwnedFd> MakeSocket() {
  OwnedFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return absl::ResourceExhaustedError("no descriptor for a socket");
  return fd;
}

int Connect(int fd, const sockaddr_un& address) {
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return 0;
  return errno;
}

// Makes room for a socket file. A server that lives answers; of one that is gone only a file is
// left, which refuses.
absl::Status RemoveStaleSocket(const std::string& path, const sockaddr_un& address) {
  struct stat file = {};
  if (lstat(path.c_str(), &file) != 0) return absl::OkStatus();  // bind says what else is wrong
  if (!S_ISSOCK(file.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " exists and is no socket; move it away or choose another path"));
  }
  ASSIGN_OR_RETURN(const OwnedFd probe, MakeSocket());
  const int error = Connect(probe.get(), address);
  if (error != ECONNREFUSED) {
    return absl::UnavailableError(absl::StrCat("another server listens on ", path));
  }
  if (unlink(path.c_str()) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("cannot replace ", path));
  }
  return absl::OkStatus();
}

// Whether `events` came before the deadline; a deadline that is past only looks.
bool WaitFor(int fd, short events, absl::Time deadline) {
  while (true) {
    pollfd entry = {.fd = fd, .events = events, .revents = 0};
    const absl::Duration left = std::max(deadline - absl::Now(), absl::ZeroDuration());
    const timespec wait = absl::ToTimespec(std::min(left, absl::Hours(1)));
    const int ready = ppoll(&entry, 1, &wait, nullptr);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
    if (absl::Now() >= deadline) return false;
  }
}

void TakeFds(msghdr* header, std::vector<OwnedFd>* fds) {
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds->emplace_back(fd);
    }
  }
}

}  // namespace

void OwnedFd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::StatusOr<OwnedFd> ListenOnPath(const std::string& path, int backlog) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  RETURN_IF_ERROR(RemoveStaleSocket(path, address));
  ASSIGN_OR_RETURN(OwnedFd fd, MakeSocket());
  // Linux gives the file the mode of the socket, so it is never open to others. The umask would do
  // too, but is the whole process's. The chmod is for systems that do otherwise; before listen
  // nobody can connect.
  const bool bound =
      fchmod(fd.get(), 0600) == 0 &&
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
      chmod(path.c_str(), 0600) == 0;
  if (!bound || listen(fd.get(), backlog) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen on ", path, ": ", std::strerror(errno)));
  }
  return fd;
}

absl::StatusOr<OwnedFd> ConnectToPath(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  ASSIGN_OR_RETURN(OwnedFd fd, MakeSocket());
  const int error = Connect(fd.get(), address);
  if (error == 0) return fd;
  return absl::UnavailableError(
      absl::StrCat("cannot connect to ", path, ": ", std::strerror(error)));
}

absl::StatusOr<uid_t> PeerUid(int socket) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return absl::UnavailableError("the peer's user is not known");
  }
  return peer.uid;
}

absl::Status SendPacket(int socket, absl::Span<const std::byte> bytes, absl::Span<const int> fds,
                        absl::Time deadline) {
  if (fds.size() > kMostFds) return absl::InvalidArgumentError("too many descriptors");
  iovec piece = {const_cast<std::byte*>(bytes.data()), bytes.size()};  // only read
  alignas(cmsghdr) char control[CMSG_SPACE(kMostFds * sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(part), fds.data(), fds.size() * sizeof(int));
  }
  while (true) {
    if (sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return absl::OkStatus();
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
      return absl::UnavailableError(absl::StrCat("cannot send: ", std::strerror(errno)));
    }
    if (!WaitFor(socket, POLLOUT, deadline)) {
      return absl::DeadlineExceededError("the peer does not read");
    }
  }
}

absl::StatusOr<ReceivedPacket> ReceivePacket(int socket, absl::Span<std::byte> buffer,
                                             absl::Time deadline) {
  iovec piece = {buffer.data(), buffer.size()};
  // One more than anybody may send, so that too many are seen, and closed here.
  alignas(cmsghdr) char control[CMSG_SPACE((kMostFds + 1) * sizeof(int))];
  while (true) {
    msghdr header = {};
    header.msg_iov = &piece;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    const ssize_t got = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      if (WaitFor(socket, POLLIN, deadline)) continue;
      return absl::DeadlineExceededError("nothing came in time");
    }
    // An empty packet looks like the end; nobody who keeps to the protocol sends one.
    if (got <= 0) return absl::UnavailableError("the connection has ended");
    ReceivedPacket packet{static_cast<size_t>(got), {}};
    TakeFds(&header, &packet.fds);
    if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || packet.fds.size() > kMostFds) {
      return absl::InvalidArgumentError("a packet that is too large");
    }
    return packet;
  }
}

}  // namespace tessera
