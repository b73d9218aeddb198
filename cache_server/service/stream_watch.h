// Looks after streams whose peer has gone quiet.
#ifndef TESSERA_CACHE_SERVER_SERVICE_STREAM_WATCH_H_
#define TESSERA_CACHE_SERVER_SERVICE_STREAM_WATCH_H_

#include <cstddef>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

// A stream that has deadlines of its own.
class WatchedStream {
 public:
  virtual ~WatchedStream() = default;
  // Called every tick, from the watch's thread: ends the stream if it is too late. Must not wait,
  // and must not call the watch.
  virtual void CheckDeadline(absl::Time now) = 0;
  // The server stops: ends a stream that would go on for ever. The same rules.
  virtual void Close() {}
};

// At most `limit` streams, checked from one thread every `tick`. Thread-safe.
class StreamWatch {
 public:
  explicit StreamWatch(size_t limit, absl::Duration tick = absl::Milliseconds(100));
  // All streams must have left.
  ~StreamWatch();

  // False when there are too many already; the stream is not watched then.
  bool TryEnter(WatchedStream* stream);
  // After it returns, the stream is not checked any more, nor being checked.
  void Leave(WatchedStream* stream);

  size_t size() const;

  // Waits until no stream is left. False: some still is at the deadline.
  bool WaitUntilEmpty(absl::Time deadline) const;
  // Calls Close of every stream.
  void CloseAll();

 private:
  void Loop();

  const size_t limit_;
  const absl::Duration tick_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_set<WatchedStream*> streams_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_STREAM_WATCH_H_
