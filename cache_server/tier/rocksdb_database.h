// Pieces in a RocksDB: what RocksdbTier reads from and writes to. Knows which bytes lie where, and
// nothing of limits.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_DATABASE_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_DATABASE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "cache_server/tier/rocksdb_open.h"
#include "cache_server/tier/tier.h"
#include "cache_server/tier/value_header.h"

namespace tessera {

// A piece that is to go from the disk.
struct ErasedPiece {
  ChunkKey key;
  uint32_t layers = 0;
};

struct DatabaseOptions {
  std::string folder;
  uint64_t write_buffer_bytes = 0;
  uint64_t table_cache_bytes = 0;  // as in OpenOptions
  bool direct_reads = true;
  // Called on RocksDB's threads, maybe under its locks: must be quick, and not call the database.
  // The disk failed under a write or in the background: writes fail until Resume, or until
  // `on_recovered`.
  std::function<void(const std::string& error)> on_failed;
  std::function<void()> on_recovered;
  // A compaction met damaged bytes, and will meet them again.
  std::function<void(const std::string& error)> on_damage;
  // Whether a piece's slices are still wanted. Asked while Collect runs, never before: slices of
  // unwanted pieces are dropped without being read.
  std::function<bool(const ChunkKey&)> is_wanted;
};

// Thread-safe. Writes of one key must not run at the same time.
class PieceDatabase {
 public:
  // `found`: the pieces that it holds. `salvaged`: as in OpenedDatabase.
  // Errors: as OpenDatabase.
  static absl::StatusOr<std::unique_ptr<PieceDatabase>> Open(DatabaseOptions options,
                                                             std::vector<PieceRecord>* found,
                                                             bool* salvaged);
  // Flushes.
  ~PieceDatabase();

  // All slices of a piece, each checked against its header and its checksum. The handle needs
  // neither the database nor the piece to be there later.
  // Errors: DATA_LOSS (also: a slice is missing), UNAVAILABLE.
  absl::StatusOr<ReadHandle> Read(const ChunkKey& key, PieceShape shape, const Tenant& tenant);

  // In one step: first `erased` go, then the piece comes. `piece` may be null. It is in memory
  // afterwards; see Flush.
  absl::Status Write(absl::Span<const ErasedPiece> erased, const PieceRecord* piece,
                     const ReadHandle* bytes);

  // Returns when all that was written is on the disk.
  absl::Status Flush();

  // After a failure: tries whether writes go again. DATA_LOSS: only Reopen can help.
  absl::Status Resume();

  // Closes and opens again; pieces that were not flushed may be lost. `empty`: throws all content
  // away. Waits for all other calls. After an error every call fails, and Reopen may be called
  // again.
  absl::Status Reopen(bool empty, std::vector<PieceRecord>* found, bool* salvaged);

  // Gives back space of pieces that were erased, or that no record speaks of: drops blob files in
  // which nothing else lies, and moves what is left in the oldest `share` of the rest (0: moves
  // nothing). Takes seconds. Returns early after StopCollecting. For one thread.
  absl::Status Collect(double share);
  void StopCollecting() { stop_collecting_ = true; }

  // How much of the blob files belongs to pieces of which compactions know that they are erased.
  double GarbageShare() const;
  // What is written but in no file yet.
  uint64_t MemoryBytes() const;
  // What RocksDB says of itself, for TierStats::medium.
  void AddFigures(std::vector<std::pair<std::string, double>>* figures) const;

 private:
  explicit PieceDatabase(DatabaseOptions options);
  OpenOptions OpeningOptions() const;
  double ReadFigure(const char* property) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const DatabaseOptions options_;
  const std::shared_ptr<std::atomic<bool>> collecting_;
  std::atomic<bool> stop_collecting_{false};
  std::shared_ptr<rocksdb::EventListener> listener_;
  std::shared_ptr<rocksdb::CompactionFilterFactory> filter_;
  // Held by readers of `db_` as long as they use it: Reopen needs it alone.
  mutable absl::Mutex mutex_;
  std::unique_ptr<rocksdb::DB> db_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_DATABASE_H_
