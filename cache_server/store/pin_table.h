// Pieces that somebody wants kept in memory for a while.
#ifndef TESSERA_CACHE_SERVER_STORE_PIN_TABLE_H_
#define TESSERA_CACHE_SERVER_STORE_PIN_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cache_server/tier/tier.h"

namespace tessera {

struct PinOptions {
  // Most bytes that pins may hold together; past it, Pin is refused. 0: none may be pinned.
  uint64_t most_bytes = uint64_t{1} << 30;
  absl::Duration longest_ttl = absl::Hours(24 * 7);
};

// A pin holds a ReadHandle, so the tier cannot evict the piece. It goes when its TTL is over (a
// thread of the table's sees to that), by Unpin, or with the table. Thread-safe.
class PinTable {
 public:
  explicit PinTable(const PinOptions& options);
  ~PinTable();

  // Pins, or sets a new end for the pin that is there. Errors: RESOURCE_EXHAUSTED,
  // INVALID_ARGUMENT (a TTL of 0 or less, or longer than the longest).
  absl::Status Pin(const ChunkKey& key, ReadHandle handle, absl::Duration ttl);
  // Whether a TTL is one that Pin takes.
  absl::Status CheckTtl(absl::Duration ttl) const;

  // False: it was not pinned.
  bool Unpin(const ChunkKey& key);

  bool IsPinned(const ChunkKey& key) const;
  // How long it stays; zero when it is not pinned.
  absl::Duration Remaining(const ChunkKey& key, absl::Time now) const;

  size_t size() const;
  uint64_t bytes() const;

 private:
  using Ends = std::multimap<absl::Time, ChunkKey>;
  struct Held {
    ReadHandle handle;
    Ends::iterator end;
  };
  void Loop();
  void Drop(const ChunkKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const PinOptions options_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<ChunkKey, Held> held_ ABSL_GUARDED_BY(mutex_);
  Ends ends_ ABSL_GUARDED_BY(mutex_);  // one for each that is held
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_STORE_PIN_TABLE_H_
