// What comes and goes in the tiers, for those who watch.
#ifndef TESSERA_CACHE_SERVER_STORE_KEY_EVENTS_H_
#define TESSERA_CACHE_SERVER_STORE_KEY_EVENTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "cache_server/tier/tier.h"

namespace tessera {

struct KeyEvent {
  bool added = false;  // else it left the tier
  ChunkKey key;
  std::string tier;
  EvictionReason reason = EvictionReason::kRoom;  // of one that left
  uint64_t missed = 0;  // events that this watcher lost just before this one
};

// One who watches: a bounded queue of events that is filled by KeyEvents and emptied by its owner.
// When it is full, new events are dropped and counted. Thread-safe.
class KeyWatcher {
 public:
  // `wake` is called when an event came to an empty queue; under locks, so it only posts.
  KeyWatcher(size_t capacity, std::function<void()> wake)
      : capacity_(capacity), wake_(std::move(wake)) {}

  // False: nothing is there.
  bool Pop(KeyEvent* event);

 private:
  friend class KeyEvents;
  void Push(const KeyEvent& event);

  const size_t capacity_;
  const std::function<void()> wake_;
  absl::Mutex mutex_;
  std::deque<KeyEvent> events_ ABSL_GUARDED_BY(mutex_);
  uint64_t missed_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Thread-safe. Cheap when nobody watches.
class KeyEvents {
 public:
  void Added(const ChunkKey& key, const std::string& tier);
  void Left(const ChunkKey& key, const std::string& tier, EvictionReason reason);

  // The listener that a tier named `tier` should be made with. This object must outlive the tier.
  EvictionListener ListenerFor(std::string tier);

  // False: there are `most` watchers already. A watcher must be removed before it ends.
  bool Add(KeyWatcher* watcher, size_t most);
  void Remove(KeyWatcher* watcher);
  size_t watchers() const { return count_.load(std::memory_order_relaxed); }

 private:
  void Publish(const KeyEvent& event);

  std::atomic<size_t> count_{0};
  absl::Mutex mutex_;
  absl::flat_hash_set<KeyWatcher*> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_STORE_KEY_EVENTS_H_
