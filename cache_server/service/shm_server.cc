#include "cache_server/service/shm_server.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <list>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cache_server/service/shm_session.h"

namespace tessera {
namespace {

absl::Status CheckOptions(const ShmServerOptions& options) {
  if (options.most_sessions == 0 || options.most_leases == 0 || options.max_keys_per_call == 0) {
    return absl::InvalidArgumentError(
        "shared memory: sessions, leases and keys per call must not be 0");
  }
  if (options.lease < absl::Milliseconds(1)) {
    return absl::InvalidArgumentError("shared memory: a lease must last at least 1 ms");
  }
  if (options.token.size() > kMostShmTokenBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory: a token has at most ", kMostShmTokenBytes, " bytes"));
  }
  return absl::OkStatus();
}

// One thread takes connections, and lets go of sessions that have ended.
class SocketShmServer : public ShmServer {
 public:
  SocketShmServer(const ShmServerOptions& options, std::shared_ptr<SharedMemory> memory,
                  ChunkStore* store) {
    context_.options = options;
    context_.options.max_keys_per_call = std::min(options.max_keys_per_call, kMostShmKeys);
    context_.memory = std::move(memory);
    context_.store = store;
  }

  ~SocketShmServer() override {
    if (!thread_.joinable()) return;
    stopping_.store(true);
    waker_->Wake();
    thread_.join();
    unlink(context_.options.path.c_str());
    for (const auto& session : sessions_) session->Stop();  // all begin to end before one is waited
  }

  absl::Status Listen() {
    ASSIGN_OR_RETURN(context_.leases, LeaseTable::Create(context_.options.most_leases));
    ASSIGN_OR_RETURN(waker_, Waker::Create());
    const size_t backlog = std::min(context_.options.most_sessions, size_t{128});
    ASSIGN_OR_RETURN(listener_, ListenOnPath(context_.options.path, static_cast<int>(backlog)));
    thread_ = std::thread([this] { AcceptLoop(); });
    return absl::OkStatus();
  }

  void SetDraining(bool draining) override { context_.draining.store(draining); }

  bool WaitForNoLeases(absl::Time deadline) const override {
    return context_.leases->WaitUntilNoneHeld(deadline);
  }

  ShmCounters counters() const override {
    return {.sessions = context_.sessions.load(),
            .leases = context_.leases->held(),
            .expired_leases = context_.expired_leases.load(),
            .served_bytes = context_.served_bytes.load(),
            .put_bytes = context_.put_bytes.load(),
            .found_pieces = context_.found_pieces.load(),
            .missing_pieces = context_.missing_pieces.load(),
            .checksum_failures = context_.checksum_failures.load(),
            .refused = context_.refused.load()};
  }

 private:
  void AcceptLoop() {
    while (!stopping_.load()) {
      pollfd entries[] = {{.fd = listener_.get(), .events = POLLIN, .revents = 0},
                          {.fd = waker_->fd(), .events = POLLIN, .revents = 0}};
      if (poll(entries, 2, -1) < 0) continue;
      waker_->Clear();
      sessions_.remove_if([](const auto& session) { return session->ended(); });
      if ((entries[0].revents & POLLIN) != 0) AcceptOne();
    }
  }

  void AcceptOne() {
    OwnedFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) {
      // Without a descriptor to spare, the one that waits would be announced again at once.
      if (errno == EMFILE || errno == ENFILE) absl::SleepFor(absl::Milliseconds(10));
      return;
    }
    const absl::Status allowed = CheckPeer(socket.get());
    absl::StatusOr<std::shared_ptr<Waker>> waker = Waker::Create();
    if (!allowed.ok() || !waker.ok()) {
      context_.refused.fetch_add(1);
      LOG_EVENT_LIMITED(kWarning, "shm_refused").WithError(allowed.ok() ? waker.status() : allowed);
      return;
    }
    sessions_.push_back(std::make_unique<ShmSession>(std::move(socket), *std::move(waker),
                                                     &context_, [wake = waker_] { wake->Wake(); }));
  }

  // Root may connect whatever the file's mode; it may do anything else here too.
  absl::Status CheckPeer(int socket) const {
    ASSIGN_OR_RETURN(const uid_t peer, PeerUid(socket));
    if (peer != geteuid() && peer != 0) {
      return absl::PermissionDeniedError(absl::StrCat("user ", peer, " is not the server's"));
    }
    if (sessions_.size() >= context_.options.most_sessions) {
      return absl::ResourceExhaustedError("too many sessions");
    }
    return absl::OkStatus();
  }

  ShmContext context_;
  std::shared_ptr<Waker> waker_;
  OwnedFd listener_;
  std::atomic<bool> stopping_{false};
  std::list<std::unique_ptr<ShmSession>> sessions_;  // the thread's, while it runs
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ShmServer>> ShmServer::Start(const ShmServerOptions& options,
                                                            std::shared_ptr<SharedMemory> memory,
                                                            ChunkStore* store) {
  RETURN_IF_ERROR(CheckOptions(options));
  auto server = std::make_unique<SocketShmServer>(options, std::move(memory), store);
  RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace tessera
