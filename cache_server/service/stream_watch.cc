#include "cache_server/service/stream_watch.h"

#include "absl/time/clock.h"
#include "glog/logging.h"

namespace tessera {

StreamWatch::StreamWatch(size_t limit, absl::Duration tick)
    : limit_(limit), tick_(tick), thread_([this] { Loop(); }) {}

StreamWatch::~StreamWatch() {
  {
    absl::MutexLock lock(&mutex_);
    CHECK(streams_.empty()) << "a stream outlives its watch";
    stopping_ = true;
  }
  thread_.join();
}

bool StreamWatch::TryEnter(WatchedStream* stream) {
  absl::MutexLock lock(&mutex_);
  if (streams_.size() >= limit_) return false;
  streams_.insert(stream);
  return true;
}

void StreamWatch::Leave(WatchedStream* stream) {
  absl::MutexLock lock(&mutex_);
  streams_.erase(stream);
}

size_t StreamWatch::size() const {
  absl::MutexLock lock(&mutex_);
  return streams_.size();
}

void StreamWatch::Loop() {
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&stopping_), tick_)) {
    const absl::Time now = absl::Now();
    for (WatchedStream* stream : streams_) stream->CheckDeadline(now);
  }
}

}  // namespace tessera
