// All tiers as one: the fastest first, and only the misses go down.
#ifndef TESSERA_CACHE_SERVER_STORE_CHUNK_STORE_H_
#define TESSERA_CACHE_SERVER_STORE_CHUNK_STORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/bounded_queue.h"
#include "cache_server/tier/tier.h"

namespace tessera {

struct ChunkStoreOptions {
  // Pieces that wait to be written to the lower tiers. Each pins its bytes in the first tier
  // meanwhile; past this many, pieces are not written down (a later miss there, nothing worse).
  size_t write_down_queue = 64;
};

struct StoreCounters {
  uint64_t promotions = 0;           // pieces copied from a lower tier to the first
  uint64_t shared_loads = 0;         // reads that waited for another's load of the same key
  uint64_t tier_errors = 0;          // a tier failed otherwise than by a miss; taken as a miss
  uint64_t dropped_write_downs = 0;  // the queue was full, or the lower tier refused
};

// A piece that was found, and the name of the tier that had it.
struct FoundPiece {
  ReadHandle handle;
  std::string tier;
};

// Thread-safe.
//
// A hit in a lower tier is copied to the first one (promoted) before it is returned; when there is
// no room for it, the lower tier's own bytes are returned. At most one thread loads a key from the
// lower tiers; the others wait for it and share what it found. That trades a little waiting for
// never reading the same piece from a disk twice at once; threads that want other keys do not wait.
class ChunkStore {
 public:
  // At least one tier, fastest first.
  explicit ChunkStore(std::vector<std::unique_ptr<Tier>> tiers, ChunkStoreOptions options = {});

  // Stops writing down; what is queued is dropped.
  ~ChunkStore();

  // Those of `keys` that no tier has, in the order given.
  std::vector<ChunkKey> FindMissing(absl::Span<const ChunkKey> keys);

  // Finds and pins a piece. Waits for a lower tier's medium when the first tier misses.
  // Errors: NOT_FOUND, also when a tier failed (see StoreCounters).
  absl::StatusOr<FoundPiece> Get(const ChunkKey& key);

  // Room in the first tier; errors as Tier::Allocate. ALREADY_EXISTS also when a lower tier has the
  // key.
  absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape);

  // Makes the piece visible, and queues it for the lower tiers. Errors as Tier::Commit.
  absl::Status Commit(WriteHandle handle);

  // Erases from every tier. A load of the key that is under way may put it back.
  absl::Status Erase(const ChunkKey& key);

  // Waits until all that was queued before has been written down or dropped.
  void WaitForWriteDowns();

  std::vector<TierStats> Stats() const;
  StoreCounters counters() const;

 private:
  // A load of one key from the lower tiers, and what came of it.
  struct Load {
    bool done = false;
    absl::StatusOr<FoundPiece> result = absl::NotFoundError("not loaded");
  };
  struct WriteDown {
    ChunkKey key;
    ReadHandle handle;
  };

  // Get of one tier, where every failure is a miss.
  absl::StatusOr<FoundPiece> GetFrom(size_t tier, const ChunkKey& key);
  absl::StatusOr<FoundPiece> LoadFromBelow(const ChunkKey& key);
  // Copies a piece of a lower tier to the first one, if there is room.
  FoundPiece Promote(const ChunkKey& key, FoundPiece found);
  absl::StatusOr<ReadHandle> CopyTo(Tier* tier, const ChunkKey& key, const ReadHandle& piece);
  void WriteDownLoop();

  const std::vector<std::unique_ptr<Tier>> tiers_;
  std::vector<std::string> names_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<ChunkKey, std::shared_ptr<Load>> loads_ ABSL_GUARDED_BY(mutex_);
  StoreCounters counters_ ABSL_GUARDED_BY(mutex_);
  size_t unwritten_ ABSL_GUARDED_BY(mutex_) = 0;  // queued or being written
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  BoundedQueue<WriteDown> write_downs_;
  std::thread writer_;  // only when there is a lower tier
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_STORE_CHUNK_STORE_H_
