// Tells when sockets have received something, so that their readers need not wait in them.
#ifndef TESSERA_CACHE_SERVER_CLIENT_SOCKET_WATCH_H_
#define TESSERA_CACHE_SERVER_CLIENT_SOCKET_WATCH_H_

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "cache_server/transfer/unix_socket.h"

namespace tessera {

// Thread-safe. One thread for all sockets, from the first Add on.
class SocketWatch {
 public:
  SocketWatch() = default;
  ~SocketWatch();
  SocketWatch(const SocketWatch&) = delete;
  SocketWatch& operator=(const SocketWatch&) = delete;

  // Calls `on_received`, on the watch's thread, whenever something more has come or the socket has
  // ended, and soon if that is so already. It must be quick, and must not call the watch. The
  // socket must be removed before it is closed. RESOURCE_EXHAUSTED: the system has no room for it.
  absl::Status Add(int socket, std::function<void()> on_received);

  // When this returns, nothing is called for this socket any more. One that is not watched is no
  // error.
  void Remove(int socket);

 private:
  absl::Status Open() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Loop(int epoll);

  absl::Mutex mutex_;
  OwnedFd epoll_ ABSL_GUARDED_BY(mutex_);
  OwnedFd stop_ ABSL_GUARDED_BY(mutex_);  // an eventfd that ends the thread
  absl::flat_hash_map<int, std::function<void()>> sockets_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_SOCKET_WATCH_H_
