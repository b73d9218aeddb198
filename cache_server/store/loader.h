// Threads that load pieces from slow tiers, each piece once for all who want it.
#ifndef TESSERA_CACHE_SERVER_STORE_LOADER_H_
#define TESSERA_CACHE_SERVER_STORE_LOADER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "cache_server/tier/tier.h"

namespace tessera {

// A piece that was found, and the name of the tier that had it.
struct FoundPiece {
  ReadHandle handle;
  std::string tier;

  FoundPiece Share() const { return {handle.Share(), tier}; }
};

using LoadFunction = std::function<absl::StatusOr<FoundPiece>(const ChunkKey&)>;
using LoadCallback = std::function<void(absl::StatusOr<FoundPiece>)>;

struct LoaderOptions {
  size_t threads = 4;
  // Keys that wait for a thread; past it, loads are refused.
  size_t queue = 4096;
};

struct LoaderCounters {
  uint64_t loads = 0;         // that found their piece
  uint64_t failed_loads = 0;  // that did not
  uint64_t shared_loads = 0;  // callers that joined another's load of the same key
  uint64_t refused_loads = 0;
  uint64_t waiting = 0;  // keys now
};

// Single flight: at most one load of a key is queued or runs; who asks meanwhile shares what it
// finds. That trades a little waiting for never reading the same piece from a disk twice at once.
// Thread-safe.
class Loader {
 public:
  // `load` does the work, on a thread of the loader's.
  Loader(const LoaderOptions& options, LoadFunction load);
  // Waits for loads that run; the callbacks of those that wait get CANCELLED.
  ~Loader();

  // Calls `done` once: on a loader thread, or at once with RESOURCE_EXHAUSTED.
  void Load(const ChunkKey& key, LoadCallback done);

  // The key was erased: who asks for it while the present load of it goes on gets NOT_FOUND, and no
  // share of that. A key that is not being loaded is no error.
  void Forget(const ChunkKey& key);
  // Whether the load of the key that goes on was forgotten.
  bool IsForgotten(const ChunkKey& key) const;

  LoaderCounters counters() const;

 private:
  // Who wants a key that waits or is being loaded.
  struct Wanted {
    std::vector<LoadCallback> callbacks;
    bool forgotten = false;
  };

  void Loop();
  // Takes the callbacks of a key that is done.
  std::vector<LoadCallback> Take(const ChunkKey& key, bool found);

  const LoaderOptions options_;
  const LoadFunction load_;
  mutable absl::Mutex mutex_;
  std::deque<ChunkKey> queue_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<ChunkKey, Wanted> wanted_ ABSL_GUARDED_BY(mutex_);
  LoaderCounters counters_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_STORE_LOADER_H_
