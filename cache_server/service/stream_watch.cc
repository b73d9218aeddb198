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

bool StreamWatch::WaitUntilEmpty(absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  auto empty = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return streams_.empty(); };
  return mutex_.AwaitWithDeadline(absl::Condition(&empty), deadline);
}

void StreamWatch::CloseAll() {
  absl::MutexLock lock(&mutex_);
  for (WatchedStream* stream : streams_) stream->Close();
}

void StreamWatch::Loop() {
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&stopping_), tick_)) {
    const absl::Time now = absl::Now();
    for (WatchedStream* stream : streams_) stream->CheckDeadline(now);
  }
}

}  // namespace tessera
