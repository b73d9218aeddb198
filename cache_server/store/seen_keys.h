// Which keys were seen lately, in little memory.
#ifndef TESSERA_CACHE_SERVER_STORE_SEEN_KEYS_H_
#define TESSERA_CACHE_SERVER_STORE_SEEN_KEYS_H_

#include <cstddef>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "cache_server/chunk/key.h"

namespace tessera {

// Remembers the last `capacity` to 2 * capacity different keys: two generations, of which the older
// is forgotten when the newer is full. Thread-safe.
class SeenKeys {
 public:
  explicit SeenKeys(size_t capacity) : capacity_(capacity) {}

  // Whether the key was seen before; it is from now on.
  bool Saw(const ChunkKey& key) {
    absl::MutexLock lock(&mutex_);
    const bool seen = newer_.contains(key) || older_.contains(key);
    if (newer_.size() >= capacity_) {
      older_.swap(newer_);
      newer_.clear();
    }
    newer_.insert(key);
    return seen;
  }

 private:
  const size_t capacity_;
  absl::Mutex mutex_;
  absl::flat_hash_set<ChunkKey> newer_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<ChunkKey> older_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_STORE_SEEN_KEYS_H_
