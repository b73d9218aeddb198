#include "gpu_worker/serve/watch_call.h"

#include <optional>

namespace tessera {

WatchCall::WatchCall(ResidentChunks* residents) {
  {
    // It may call us before it is here.
    absl::MutexLock lock(&mutex_);
    watch_ = residents->StartWatch([this] { WriteNext(); });
    ended_ = watch_ == nullptr;
  }
  if (ended_) {
    Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watch this worker's chunks"});
  } else {
    WriteNext();
  }
}

void WatchCall::WriteNext() {
  absl::MutexLock lock(&mutex_);
  if (writing_ || ended_) return;
  std::optional<ResidentChanges> changes = watch_->Take(kMostHashes);
  if (!changes) return;
  message_.Clear();
  message_.set_restart(changes->restart);
  message_.mutable_added()->Assign(changes->added.begin(), changes->added.end());
  message_.mutable_removed()->Assign(changes->removed.begin(), changes->removed.end());
  writing_ = true;
  StartWrite(&message_);
}

void WatchCall::OnWriteDone(bool ok) {
  bool ended = false;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    ended = ended_ = ended_ || !ok;
  }
  if (ended) return Finish(grpc::Status::CANCELLED);
  WriteNext();
}

// After Finish the call may be gone: it comes last, and without the lock.
void WatchCall::OnCancel() {
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    if (writing_) return;
  }
  Finish(grpc::Status::CANCELLED);
}

}  // namespace tessera
