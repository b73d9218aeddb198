#include "cache_server/client/slice_verifiers.h"

#include <algorithm>
#include <utility>

#include "glog/logging.h"

namespace tessera {

int SliceVerifiers::DefaultThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, 8);
}

SliceVerifiers::~SliceVerifiers() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    CHECK(turns_.empty()) << "a stream outlives its client";
    stopping_ = true;
    threads = std::move(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void SliceVerifiers::Enqueue(VerifiedStream* stream, Turn& turn) {
  // Who looked before this and found nothing does not take it out again.
  ++turn.wakes;
  if (turn.queued || turn.removed) return;
  turn.queued = true;
  queue_.push_back(stream);
}

void SliceVerifiers::Dequeue(VerifiedStream* stream, Turn& turn) {
  if (!turn.queued) return;
  turn.queued = false;
  queue_.erase(std::find(queue_.begin(), queue_.end(), stream));
}

void SliceVerifiers::Wake(VerifiedStream* stream) {
  absl::MutexLock lock(&mutex_);
  Enqueue(stream, turns_[stream]);
  while (static_cast<int>(threads_.size()) < most_threads_) {
    threads_.emplace_back([this] { Loop(); });
  }
}

void SliceVerifiers::Remove(VerifiedStream* stream) {
  absl::MutexLock lock(&mutex_);
  const auto found = turns_.find(stream);
  if (found == turns_.end()) return;
  found->second.removed = true;
  Dequeue(stream, found->second);
  const auto idle = [this, stream]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return turns_.find(stream)->second.running == 0;
  };
  mutex_.Await(absl::Condition(&idle));
  turns_.erase(stream);
}

void SliceVerifiers::Loop() {
  absl::MutexLock lock(&mutex_);
  const auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !queue_.empty();
  };
  while (true) {
    mutex_.Await(absl::Condition(&due));
    if (stopping_) return;
    VerifiedStream* const stream = queue_.front();
    // It stays in the queue, so that other threads work for it too.
    queue_.pop_front();
    queue_.push_back(stream);
    const uint64_t wakes = turns_[stream].wakes;
    ++turns_[stream].running;
    mutex_.Unlock();
    const bool more = stream->VerifySome();
    mutex_.Lock();
    Turn& turn = turns_[stream];
    --turn.running;
    if (more) {
      Enqueue(stream, turn);
    } else if (turn.wakes == wakes) {
      Dequeue(stream, turn);
    }
  }
}

}  // namespace tessera
