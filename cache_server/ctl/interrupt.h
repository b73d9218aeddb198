// Ctrl-C, for commands that have something to put away first.
#ifndef TESSERA_CACHE_SERVER_CTL_INTERRUPT_H_
#define TESSERA_CACHE_SERVER_CTL_INTERRUPT_H_

#include <grpcpp/client_context.h>

#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera::ctl {

// Waits for SIGINT and SIGTERM, which must be blocked (StartProcess does). The first cancels the
// calls that were added, and those that are added later; the second ends the process. Thread-safe.
// One per process, as long as it runs.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool requested() const;

  // Waits for it; false when `timeout` was over before.
  bool WaitFor(absl::Duration timeout) const;

  // A call that Ctrl-C cancels, from Add to Remove.
  void Add(grpc::ClientContext* context);
  void Remove(grpc::ClientContext* context);

 private:
  void Loop();

  mutable absl::Mutex mutex_;
  bool requested_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<grpc::ClientContext*> open_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_INTERRUPT_H_
