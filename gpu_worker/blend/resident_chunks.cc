#include "gpu_worker/blend/resident_chunks.h"

#include "glog/logging.h"

namespace tessera {

// Under the locks: the last watch may have ended on another thread just now.
ResidentChunks::~ResidentChunks() {
  absl::MutexLock calling(&calling_);
  absl::MutexLock lock(&mutex_);
  CHECK(watches_.empty()) << "a watch outlives what it watches";
}

void ResidentChunks::Add(uint64_t chunk_hash) {
  {
    absl::MutexLock lock(&mutex_);
    if (++counts_[chunk_hash] > 1) return;
    Changed(chunk_hash);
  }
  TellAll();
}

void ResidentChunks::Remove(uint64_t chunk_hash) {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = counts_.find(chunk_hash);
    if (found == counts_.end() || --found->second > 0) return;
    counts_.erase(found);
    Changed(chunk_hash);
  }
  TellAll();
}

void ResidentChunks::Changed(uint64_t chunk_hash) {
  for (Watch* const watch : watches_) {
    watch->changed_.insert(chunk_hash);
    if (watch->changed_.size() > counts_.size() + kMostPending) Restart(watch);
  }
}

void ResidentChunks::Restart(Watch* watch) {
  watch->restart_ = true;
  watch->changed_.clear();
  for (const auto& [chunk_hash, count] : counts_) watch->changed_.insert(chunk_hash);
}

void ResidentChunks::TellAll() {
  absl::MutexLock calling(&calling_);
  std::vector<Watch*> watches;
  {
    absl::MutexLock lock(&mutex_);
    watches.assign(watches_.begin(), watches_.end());
  }
  for (Watch* const watch : watches) watch->on_change_();
}

std::unique_ptr<ResidentChunks::Watch> ResidentChunks::StartWatch(std::function<void()> on_change) {
  // Declared before the lock: one that is refused ends after it.
  std::unique_ptr<Watch> watch(new Watch(this, std::move(on_change)));
  absl::MutexLock lock(&mutex_);
  if (watches_.size() >= kMostWatches) return nullptr;
  Restart(watch.get());
  watches_.insert(watch.get());
  return watch;
}

ResidentChunks::Watch::~Watch() {
  absl::MutexLock calling(&residents_.calling_);
  absl::MutexLock lock(&residents_.mutex_);
  residents_.watches_.erase(this);
}

std::optional<ResidentChanges> ResidentChunks::Watch::Take(size_t most) {
  absl::MutexLock lock(&residents_.mutex_);
  if (!restart_ && changed_.empty()) return std::nullopt;
  ResidentChanges changes;
  changes.restart = std::exchange(restart_, false);
  auto next = changed_.begin();
  for (size_t taken = 0; taken < most && next != changed_.end(); ++taken) {
    (residents_.counts_.contains(*next) ? changes.added : changes.removed).push_back(*next);
    changed_.erase(next++);
  }
  return changes;
}

}  // namespace tessera
