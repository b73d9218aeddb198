#include "cache_server/client/socket_watch.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

absl::Status NoRoom(const char* what) {
  return absl::ResourceExhaustedError(absl::StrCat(what, ": ", std::strerror(errno)));
}

// Edge-triggered: one event for what arrives, so that nobody has to say that it was read.
absl::Status AddTo(int epoll, int fd) {
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
  event.data.fd = fd;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  return NoRoom("cannot watch a socket");
}

}  // namespace

SocketWatch::~SocketWatch() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    eventfd_write(stop_.get(), 1);
  }
  thread_.join();
}

absl::Status SocketWatch::Open() {
  OwnedFd epoll(epoll_create1(EPOLL_CLOEXEC)), stop(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (epoll.get() < 0 || stop.get() < 0) return NoRoom("cannot watch sockets");
  RETURN_IF_ERROR(AddTo(epoll.get(), stop.get()));
  epoll_ = std::move(epoll);
  stop_ = std::move(stop);
  thread_ = std::thread([this, fd = epoll_.get()] { Loop(fd); });
  return absl::OkStatus();
}

absl::Status SocketWatch::Add(int socket, std::function<void()> on_received) {
  absl::MutexLock lock(&mutex_);
  if (!thread_.joinable()) RETURN_IF_ERROR(Open());
  RETURN_IF_ERROR(AddTo(epoll_.get(), socket));
  sockets_[socket] = std::move(on_received);
  return absl::OkStatus();
}

void SocketWatch::Remove(int socket) {
  absl::MutexLock lock(&mutex_);
  if (sockets_.erase(socket) == 0) return;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, socket, nullptr);
}

void SocketWatch::Loop(int epoll) {
  while (true) {
    epoll_event events[16];
    const int count = epoll_wait(epoll, events, 16, -1);
    absl::MutexLock lock(&mutex_);
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd == stop_.get()) return;
      // Under the lock, so that Remove waits for it. One that was removed since is not there.
      const auto found = sockets_.find(events[i].data.fd);
      if (found != sockets_.end()) found->second();
    }
  }
}

}  // namespace tessera
