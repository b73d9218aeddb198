// Wakes a thread that polls descriptors.
#ifndef TESSERA_CACHE_SERVER_SERVICE_WAKER_H_
#define TESSERA_CACHE_SERVER_SERVICE_WAKER_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "cache_server/transfer/unix_socket.h"

namespace tessera {

// A thread that polls can be woken through it. Thread-safe; outlives whoever may call Wake.
class Waker {
 public:
  // RESOURCE_EXHAUSTED: no descriptor.
  static absl::StatusOr<std::shared_ptr<Waker>> Create();
  explicit Waker(OwnedFd event) : event_(std::move(event)) {}

  void Wake();
  // What to poll for input.
  int fd() const { return event_.get(); }
  // Takes back all Wakes so far.
  void Clear();

 private:
  const OwnedFd event_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_WAKER_H_
