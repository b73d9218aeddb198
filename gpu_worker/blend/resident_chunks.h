// Which chunks are resident, for those who want to be told.
#ifndef TESSERA_GPU_WORKER_BLEND_RESIDENT_CHUNKS_H_
#define TESSERA_GPU_WORKER_BLEND_RESIDENT_CHUNKS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"

namespace tessera {

// Chunks as the router knows them: by ChunkHash.
struct ResidentChanges {
  bool restart = false;  // what was said before is void
  std::vector<uint64_t> added;
  std::vector<uint64_t> removed;
};

// Thread-safe; must outlive its watches.
class ResidentChunks {
 public:
  static constexpr size_t kMostWatches = 64;
  // Changes that may wait for one reader, beside those that say all anew.
  static constexpr size_t kMostPending = 4096;

  class Watch;

  ResidentChunks() = default;
  ~ResidentChunks();
  ResidentChunks(const ResidentChunks&) = delete;
  ResidentChunks& operator=(const ResidentChunks&) = delete;

  // Two chunks may have one hash, behind another sink: it is there as long as one of them is.
  void Add(uint64_t chunk_hash);
  void Remove(uint64_t chunk_hash);

  // A watch whose first changes say all that is resident. on_change is called when there are some
  // to take, on the thread that makes them; it may call Take, and must not end the watch. Null:
  // there are kMostWatches already.
  std::unique_ptr<Watch> StartWatch(std::function<void()> on_change)
      ABSL_LOCKS_EXCLUDED(calling_, mutex_);

 private:
  void Changed(uint64_t chunk_hash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Restart(Watch* watch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellAll() ABSL_LOCKS_EXCLUDED(calling_, mutex_);

  // Held while watches are called, so that none ends then; always before mutex_.
  absl::Mutex calling_ ABSL_ACQUIRED_BEFORE(mutex_);
  absl::Mutex mutex_;
  absl::flat_hash_map<uint64_t, int64_t> counts_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<Watch*> watches_ ABSL_GUARDED_BY(mutex_);
};

// Who falls behind loses no more than time: past the bound it is told all anew instead.
class ResidentChunks::Watch {
 public:
  // on_change is not called any more when this returns.
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // What has changed since the last Take, at most `most` hashes at a time; nothing, if nothing has.
  std::optional<ResidentChanges> Take(size_t most);

 private:
  friend class ResidentChunks;
  Watch(ResidentChunks* residents, std::function<void()> on_change)
      : residents_(*residents), on_change_(std::move(on_change)) {}

  ResidentChunks& residents_;
  const std::function<void()> on_change_;
  // Guarded by the residents' mutex. What became of a changed chunk is looked up when it is taken.
  bool restart_ = false;
  absl::flat_hash_set<uint64_t> changed_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_RESIDENT_CHUNKS_H_
