#include "cache_server/service/waker.h"

#include <sys/eventfd.h>

namespace tessera {

absl::StatusOr<std::shared_ptr<Waker>> Waker::Create() {
  OwnedFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return absl::ResourceExhaustedError("no descriptor for an event");
  return std::make_shared<Waker>(std::move(event));
}

void Waker::Wake() {
  // Fails only when it is awake already, more often than can be counted.
  (void)eventfd_write(event_.get(), 1);
}

void Waker::Clear() {
  eventfd_t count = 0;
  (void)eventfd_read(event_.get(), &count);
}

}  // namespace tessera
