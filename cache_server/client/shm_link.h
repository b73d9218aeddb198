// A client's way to a server's shared memory: finds it, keeps connections, and renews leases.
#ifndef TESSERA_CACHE_SERVER_CLIENT_SHM_LINK_H_
#define TESSERA_CACHE_SERVER_CLIENT_SHM_LINK_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cache_server/client/shm_connection.h"
#include "cache_server/client/slice_verifiers.h"
#include "cache_server/client/socket_watch.h"

namespace tessera {

struct ShmLinkOptions {
  size_t most_connections = 8;  // one for each call at a time
  absl::Duration open_timeout = absl::Milliseconds(250);
  // After a failure the server is not asked again for so long; doubles up to `longest_pause`.
  absl::Duration first_pause = absl::Seconds(1);
  absl::Duration longest_pause = absl::Seconds(30);
  ReadMemory* read_memory = nullptr;  // told of mappings; may be null, otherwise outlives the link
};

// Thread-safe. Connections that were taken must be given back before it ends.
class ShmLink {
 public:
  // `ask` finds out where the server's socket is, and calls back once, on any thread, unless the
  // link is being destroyed. An empty socket: the server has none. The token is the link's own.
  using Found = std::function<void(absl::StatusOr<ShmAddress>)>;
  using Ask = std::function<void(Found)>;
  ShmLink(const ShmLinkOptions& options, std::string token, Ask ask);
  ~ShmLink();

  // A connection for one call. NOT_FOUND: there is none now, and nothing is wrong: the server was
  // not found yet (it is being asked from the first Take on), offers no shared memory to us, or
  // all connections are in use. Other errors: shared memory fails.
  absl::StatusOr<std::unique_ptr<ShmConnection>> Take();

  // Waits until Take would not say that it was not found yet.
  void WaitUntilAsked(absl::Time deadline);

  // Gives a connection back. `reusable`: no answer of its call is outstanding.
  void Give(std::unique_ptr<ShmConnection> connection, bool reusable);

  // The connection's server has failed: it is forgotten, and asked for again after a pause. The
  // connection itself is still to be given back.
  void Fail(const ShmConnection& connection, const absl::Status& why);

  // Renews this connection's lease until then, or until StopRenewing.
  void StartRenewing(ShmConnection* connection, uint64_t lease, absl::Time until);
  void StopRenewing(ShmConnection* connection);

  // Who asks instead of waiting is told by this one what connections have received something.
  SocketWatch& sockets() { return sockets_; }

  // The threads that verify what all fetches bring.
  SliceVerifiers& verifiers() { return verifiers_; }

 private:
  enum class State {
    kUnknown,  // to be asked for, when `not_before_` is over
    kAsking,
    kLocated,  // to be connected to, by the thread
    kReady,
  };
  struct Renewal {
    uint64_t lease = 0;
    absl::Time until;
  };

  void AskIfDue() ABSL_LOCKS_EXCLUDED(mutex_);
  void Locate(absl::StatusOr<ShmAddress> address);
  void Forget(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Loop();
  void ConnectFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RenewAll(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ShmLinkOptions options_;
  const std::string token_;
  const Ask ask_;
  absl::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kUnknown;
  ShmAddress address_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const ShmMapping> mapping_ ABSL_GUARDED_BY(mutex_);  // while kReady
  std::vector<std::unique_ptr<ShmConnection>> idle_ ABSL_GUARDED_BY(mutex_);
  size_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::shared_ptr<const ShmMapping>> forgotten_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);  // why the state is kUnknown again
  absl::Time not_before_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Duration pause_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  absl::Duration renew_every_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(1);
  absl::flat_hash_map<ShmConnection*, Renewal> renewals_ ABSL_GUARDED_BY(mutex_);
  bool wake_ ABSL_GUARDED_BY(mutex_) = false;  // there is something new for the thread
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  SliceVerifiers verifiers_;  // before sockets_, whose thread wakes it
  SocketWatch sockets_;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_SHM_LINK_H_
