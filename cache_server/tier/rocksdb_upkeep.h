// What a RocksDB tier does behind its readers and writers, on a thread of its own: give back disk
// space, and get over damage and failures.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_UPKEEP_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_UPKEEP_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "cache_server/tier/rocksdb_database.h"
#include "cache_server/tier/rocksdb_gate.h"
#include "cache_server/tier/rocksdb_index.h"

namespace tessera {

// What the tier, its upkeep and its unfinished writes share. Locks are taken in this order, and
// RocksDB is never called under the second.
struct TierState {
  explicit TierState(const PieceIndexOptions& options) : index(options) {}

  // Whether compactions must keep the piece's slices.
  bool IsWanted(const ChunkKey& key) {
    absl::MutexLock lock(&mutex);
    return index.Find(key) != nullptr || (being_written.has_value() && *being_written == key);
  }

  // Held while the database is written. Whoever writes erases first what has left the index, so a
  // piece that comes back is never erased after it was written.
  absl::Mutex writing;
  absl::Mutex mutex ABSL_ACQUIRED_AFTER(writing);
  PieceIndex index ABSL_GUARDED_BY(mutex);
  std::optional<ChunkKey> being_written ABSL_GUARDED_BY(mutex);
  uint64_t unfinished_bytes ABSL_GUARDED_BY(mutex) = 0;  // memory of WriteHandles
};

// Erases from the database what has left the index.
absl::Status WriteErased(TierState* state, PieceDatabase* database)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(state->writing);

// Reads and checks a piece of the index. What is damaged leaves the index, with a log line.
// Errors: NOT_FOUND (also: it left meanwhile), DATA_LOSS, UNAVAILABLE.
absl::StatusOr<ReadHandle> ReadPiece(TierState* state, PieceDatabase* database, const ChunkKey& key,
                                     const PieceIndex::Entry& entry);

struct UpkeepOptions {
  std::string folder;
  // Collecting starts when the folder has more than `collect_from_bytes`, and ends at
  // `collect_to_bytes`, or when there is nothing left to collect.
  uint64_t collect_from_bytes = 0;
  uint64_t collect_to_bytes = 0;
};

// How much of the oldest blob files one round of collecting empties. What lives in them is there
// twice until the round is done: by so much the folder may grow past its other limits meanwhile.
inline constexpr double kShareOfCollectRound = 0.05;

class Upkeep {
 public:
  // All three must outlive it. Starts idle.
  Upkeep(const UpkeepOptions& options, TierState* state, PieceDatabase* database, WriteGate* gate);
  ~Upkeep() { Stop(); }

  // Ends its thread, after what it is at. What is asked for later is not done.
  void Stop();

  // Collects when the folder has grown past what it should be. Cheap when it has not.
  void CollectIfNeeded();
  // Any of these may be asked for on any thread, RocksDB's too; what is asked twice is done once.
  // Slices may be there that no record speaks of.
  void DropOrphans() { Ask(&orphans_); }
  // A compaction met damage: finds and drops all that is damaged, so that compactions go on.
  void Heal() { Ask(&damage_); }
  // The database is of no use as it is open now.
  void Reopen() { Ask(&reopen_); }

 private:
  void Ask(std::atomic<bool>* what);
  void Loop();
  bool IsAsked() const { return stopping_ || collect_ || orphans_ || damage_ || reopen_; }
  void Collect();
  void CollectRounds();
  void DoHeal();
  void DoDropOrphans();
  void DoReopen(bool empty);

  const UpkeepOptions options_;
  TierState* const state_;
  PieceDatabase* const database_;
  WriteGate* const gate_;
  absl::Mutex mutex_;  // for waiting
  std::atomic<bool> collect_{false};
  std::atomic<bool> orphans_{false};
  std::atomic<bool> damage_{false};
  std::atomic<bool> reopen_{false};
  std::atomic<bool> stopping_{false};
  std::thread thread_;  // last: uses all of the above
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_UPKEEP_H_
