#include "cache_server/store/loader.h"

#include <utility>

#include "glog/logging.h"

namespace tessera {

Loader::Loader(const LoaderOptions& options, LoadFunction load)
    : options_(options), load_(std::move(load)) {
  CHECK_GT(options_.threads, 0u);
  for (size_t i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { Loop(); });
}

Loader::~Loader() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
  absl::flat_hash_map<ChunkKey, Wanted> left;
  {
    absl::MutexLock lock(&mutex_);
    left.swap(wanted_);
    queue_.clear();
  }
  for (const auto& [key, wanted] : left) {
    for (const LoadCallback& done : wanted.callbacks) done(absl::CancelledError("the store is stopping"));
  }
}

void Loader::Load(const ChunkKey& key, LoadCallback done) {
  absl::Status refused = absl::ResourceExhaustedError("too many loads wait");
  {
    absl::MutexLock lock(&mutex_);
    const auto found = wanted_.find(key);
    if (found != wanted_.end() && found->second.forgotten) {
      refused = absl::NotFoundError("erased");
    } else if (found != wanted_.end()) {
      ++counters_.shared_loads;
      found->second.callbacks.push_back(std::move(done));
      return;
    } else if (!stopping_ && queue_.size() < options_.queue) {
      queue_.push_back(key);
      wanted_[key].callbacks.push_back(std::move(done));
      return;
    } else {
      ++counters_.refused_loads;
    }
  }
  done(refused);
}

void Loader::Forget(const ChunkKey& key) {
  absl::MutexLock lock(&mutex_);
  const auto found = wanted_.find(key);
  if (found != wanted_.end()) found->second.forgotten = true;
}

bool Loader::IsForgotten(const ChunkKey& key) const {
  absl::MutexLock lock(&mutex_);
  const auto found = wanted_.find(key);
  return found != wanted_.end() && found->second.forgotten;
}

void Loader::Loop() {
  while (true) {
    ChunkKey key;
    {
      absl::MutexLock lock(&mutex_);
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !queue_.empty();
      };
      mutex_.Await(absl::Condition(&ready));
      if (stopping_) return;
      key = queue_.front();
      queue_.pop_front();
    }
    const absl::StatusOr<FoundPiece> found = load_(key);
    for (const LoadCallback& done : Take(key, found.ok())) {
      if (found.ok()) {
        done(found->Share());
      } else {
        done(found.status());
      }
    }
  }
}

std::vector<LoadCallback> Loader::Take(const ChunkKey& key, bool found) {
  absl::MutexLock lock(&mutex_);
  ++(found ? counters_.loads : counters_.failed_loads);
  const auto wanted = wanted_.find(key);
  std::vector<LoadCallback> callbacks = std::move(wanted->second.callbacks);
  wanted_.erase(wanted);
  return callbacks;
}

LoaderCounters Loader::counters() const {
  absl::MutexLock lock(&mutex_);
  LoaderCounters counters = counters_;
  counters.waiting = queue_.size();
  return counters;
}

}  // namespace tessera
