// The chunks that a worker keeps in its own memory, and those that are on their way to it.
#ifndef TESSERA_GPU_WORKER_BLEND_CHUNK_POOL_H_
#define TESSERA_GPU_WORKER_BLEND_CHUNK_POOL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/auto_reset_event.h"
#include "cache_server/chunk/key.h"
#include "gpu_worker/blend/raw_chunk.h"
#include "gpu_worker/blend/resident_chunks.h"

namespace tessera {

class ChunkLoad;

// What a SegmentOutcome's tier says of a chunk that was resident.
inline constexpr char kWorkerTier[] = "worker";

// Since the start, but for the first three. A chunk that a prompt wants is one of hit, joined,
// miss.
struct ChunkPoolStats {
  int64_t limit_bytes = 0;
  int64_t resident_bytes = 0;
  int64_t resident_chunks = 0;
  uint64_t hits = 0;       // chunks that were resident
  uint64_t hit_bytes = 0;  // and their bytes: not fetched
  uint64_t joined = 0;     // chunks that another request, or the same one, was loading already
  uint64_t misses = 0;     // chunks that the cache server was asked for
  uint64_t kept = 0;       // chunks that became resident
  uint64_t evictions = 0;  // by the limit
};

// Whole chunks, least recently used out first, never more than `limit_bytes` of them. A chunk that
// somebody reads lives on when it is evicted, so memory is at most the limit and what is in use.
//
// Only what was fetched whole or computed alone gets in (ChunkLoad sees to it), and readers get it
// const: rows that a blend recomputed or corrected are never here. Keys contain the tenant's salt,
// so sharing by key is sharing within a tenant. One pool serves one model and one piece size.
//
// For the one thread that issues device work; any thread may call stats and Progress.
class ChunkPool {
 public:
  // 0: keeps nothing. Loads are shared all the same.
  explicit ChunkPool(int64_t limit_bytes);
  // No load may be under way.
  ~ChunkPool();

  // The resident chunk, which is then the last to go; or null.
  std::shared_ptr<const RawChunk> Find(const ChunkKey& key);
  // Whether Find would find it. Changes and counts nothing.
  bool Holds(const ChunkKey& key) const;
  // Makes a whole chunk resident; one that is larger than the limit is not kept. chunk_hash: what
  // the router knows it by (base/chunk_hash.h).
  void Keep(const ChunkKey& key, uint64_t chunk_hash, std::shared_ptr<const RawChunk> chunk);

  // The load of this chunk that is under way, for one more request to join; or null. A load is
  // under way as long as a request holds it.
  std::shared_ptr<ChunkLoad> FindLoad(const ChunkKey& key);
  // Called by loads when they begin and end.
  void AddLoad(const ChunkKey& key, const std::shared_ptr<ChunkLoad>& load);
  void RemoveLoad(const ChunkKey& key);

  // Something that a request waits for may have come. Quick: wakes AwaitProgress and calls the
  // owner's function, on the caller's thread.
  void Progress();
  // Called whenever something may have come, for an owner that sleeps on an event of its own. It
  // must be quick, and must not call the pool. To be set while no load is under way.
  void set_on_progress(std::function<void()> on_progress) { on_progress_ = std::move(on_progress); }
  // Waits for Progress since the last time, until `deadline` at most.
  void AwaitProgress(absl::Time deadline) { progress_.Await(deadline); }

  ChunkPoolStats stats() const;
  // Tells what is resident, to any thread.
  ResidentChunks& residents() { return told_; }

 private:
  struct Resident {
    ChunkKey key;
    uint64_t chunk_hash = 0;
    std::shared_ptr<const RawChunk> chunk;
  };

  // Returns the hashes of what it evicts.
  std::vector<uint64_t> EvictTo(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::function<void()> on_progress_;
  AutoResetEvent progress_;
  absl::flat_hash_map<ChunkKey, std::weak_ptr<ChunkLoad>> loads_;
  mutable absl::Mutex mutex_;
  std::list<Resident> residents_ ABSL_GUARDED_BY(mutex_);  // the last used first
  absl::flat_hash_map<ChunkKey, std::list<Resident>::iterator> by_key_ ABSL_GUARDED_BY(mutex_);
  ChunkPoolStats stats_ ABSL_GUARDED_BY(mutex_);
  ResidentChunks told_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_CHUNK_POOL_H_
