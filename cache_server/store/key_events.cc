#include "cache_server/store/key_events.h"

#include <utility>

namespace tessera {

bool KeyWatcher::Pop(KeyEvent* event) {
  absl::MutexLock lock(&mutex_);
  if (events_.empty()) return false;
  *event = std::move(events_.front());
  events_.pop_front();
  return true;
}

void KeyWatcher::Push(const KeyEvent& event) {
  bool first = false;
  {
    absl::MutexLock lock(&mutex_);
    if (events_.size() >= capacity_) {
      ++missed_;
      return;
    }
    first = events_.empty();
    events_.push_back(event);
    events_.back().missed = std::exchange(missed_, 0);
  }
  if (first) wake_();
}

void KeyEvents::Added(const ChunkKey& key, const std::string& tier) {
  if (watchers() == 0) return;
  Publish({.added = true, .key = key, .tier = tier});
}

void KeyEvents::Left(const ChunkKey& key, const std::string& tier, EvictionReason reason) {
  if (watchers() == 0) return;
  Publish({.added = false, .key = key, .tier = tier, .reason = reason});
}

EvictionListener KeyEvents::ListenerFor(std::string tier) {
  return [this, tier = std::move(tier)](const ChunkKey& key, EvictionReason reason) {
    Left(key, tier, reason);
  };
}

bool KeyEvents::Add(KeyWatcher* watcher, size_t most) {
  absl::MutexLock lock(&mutex_);
  if (watchers_.size() >= most) return false;
  watchers_.insert(watcher);
  count_.store(watchers_.size(), std::memory_order_relaxed);
  return true;
}

void KeyEvents::Remove(KeyWatcher* watcher) {
  absl::MutexLock lock(&mutex_);
  watchers_.erase(watcher);
  count_.store(watchers_.size(), std::memory_order_relaxed);
}

void KeyEvents::Publish(const KeyEvent& event) {
  absl::MutexLock lock(&mutex_);
  for (KeyWatcher* watcher : watchers_) watcher->Push(event);
}

}  // namespace tessera
