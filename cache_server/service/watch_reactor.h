// The server's side of one Watch. Includes gRPC: only for service/'s .cc files.
#ifndef TESSERA_CACHE_SERVER_SERVICE_WATCH_REACTOR_H_
#define TESSERA_CACHE_SERVER_SERVICE_WATCH_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/thread_pool.h"
#include "cache_server/service/stream_watch.h"
#include "cache_server/store/key_events.h"
#include "proto/kv_cache.pb.h"

namespace tessera {

// Sends events one at a time, as they come, until the caller leaves or the server stops. Events come
// under the store's locks, so a thread of `pool` sends the first one after a quiet time. Deletes
// itself.
class WatchReactor : public grpc::ServerWriteReactor<cache::v1::WatchEvent>, public WatchedStream {
 public:
  WatchReactor(StreamWatch* watch, KeyEvents* events, ThreadPool* pool);

  // Starts to send. Call once, when the watch has let it in.
  void Start();
  // Ends the stream; for a reactor that the watch did not let in.
  void Refuse(const grpc::Status& status);

  // A pool that was full when events came is made up for here.
  void CheckDeadline(absl::Time now) override { Ring(); }
  void Close() override;

 private:
  // What a thread of the pool finds this reactor by: it may be gone by then.
  struct Doorbell {
    absl::Mutex mutex;
    WatchReactor* reactor ABSL_GUARDED_BY(mutex) = nullptr;
  };

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // Starts to send if there is something, and nothing is being sent.
  void Ring();
  void SendNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(const grpc::Status& status);

  StreamWatch* const watch_;
  KeyEvents* const events_;
  const std::shared_ptr<Doorbell> doorbell_;
  KeyWatcher watcher_;
  bool entered_ = false;
  absl::Mutex mutex_;
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<KeyEvent> delayed_ ABSL_GUARDED_BY(mutex_);  // comes after the word on missed ones
  cache::v1::WatchEvent message_;  // must stay until it is written
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_WATCH_REACTOR_H_
