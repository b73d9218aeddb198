// Writes pieces to the lower tiers, behind the back of the requests.
#ifndef TESSERA_CACHE_SERVER_STORE_WRITE_BEHIND_H_
#define TESSERA_CACHE_SERVER_STORE_WRITE_BEHIND_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cache_server/tier/tier.h"

namespace tessera {

struct WriteBehindOptions {
  // What may wait. Each piece stays pinned in memory meanwhile; past either, pieces are not written
  // (a later miss there, nothing worse).
  size_t most_pieces = 1024;
  uint64_t most_bytes = uint64_t{512} << 20;
  // How often the tiers are flushed when something was written, so that a crash loses no more.
  absl::Duration flush_interval = absl::Seconds(30);
};

struct WriteBehindCounters {
  uint64_t written = 0;  // pieces, once a tier
  uint64_t dropped = 0;  // no room in the queue
  uint64_t refused = 0;  // by the tier
  uint64_t pieces = 0;   // waiting or being written, now
  uint64_t bytes = 0;
};

// One thread. Thread-safe.
class WriteBehind {
 public:
  // `tiers` must outlive it. Without tiers every Push is false.
  WriteBehind(std::vector<Tier*> tiers, const WriteBehindOptions& options);
  // Drops what is queued; the piece that is being written is finished.
  ~WriteBehind();

  // Queues a piece. False: dropped, for there is no room. A key that is queued already is not
  // queued twice.
  bool Push(const ChunkKey& key, ReadHandle handle);

  // The key was erased: what is queued under it is dropped, and what is being written is erased after
  // it is written. A key that is not here is no error.
  void Forget(const ChunkKey& key);
  // Whether the key was forgotten while it was written, and is not erased yet: asked before the tiers
  // are, what they say then is what is left of it.
  bool IsForgotten(const ChunkKey& key) const;

  // Waits until all that is queued now is written or refused, then makes the tiers durable.
  // FAILED_PRECONDITION without tiers, UNAVAILABLE when it stops; else the first error of a tier.
  absl::Status Flush();
  // The first half of Flush.
  void WaitUntilWritten();

  WriteBehindCounters counters() const;

 private:
  struct Queued {
    ChunkKey key;
    ReadHandle handle;
  };
  void Loop();
  void Write(const Queued& queued);
  // Erases what was forgotten while it was written.
  void EraseIfForgotten(const ChunkKey& key);
  void Finish(Queued queued);
  // No longer counted as waiting.
  void Uncount(const ChunkKey& key, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FlushTiers();

  const std::vector<Tier*> tiers_;
  const WriteBehindOptions options_;
  mutable absl::Mutex mutex_;
  std::deque<Queued> queue_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<ChunkKey> queued_keys_ ABSL_GUARDED_BY(mutex_);
  // The piece being written was erased meanwhile.
  bool forgotten_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<ChunkKey> writing_ ABSL_GUARDED_BY(mutex_);
  uint64_t pushed_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t finished_ ABSL_GUARDED_BY(mutex_) = 0;
  WriteBehindCounters counters_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// Copies a piece into a tier. Errors as Allocate and Commit.
absl::StatusOr<ReadHandle> CopyPiece(const ChunkKey& key, const ReadHandle& piece, Tier* tier);

// Copies a piece's slices and checksums into room of the same shape.
void FillFrom(const ReadHandle& piece, WriteHandle* room);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_STORE_WRITE_BEHIND_H_
