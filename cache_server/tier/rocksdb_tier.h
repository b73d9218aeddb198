// A tier on a disk, in RocksDB: pieces outlive the process.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_TIER_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_TIER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_server/tier/eviction_policy.h"
#include "cache_server/tier/tier.h"

namespace tessera {

struct RocksdbTierOptions {
  // The database's folder; made if it is not there. Nothing else should lie in it.
  std::string folder;
  // Most bytes of the folder. Pieces use at most `live_share` of it: erased ones leave their bytes
  // behind until RocksDB has rewritten the file that they lie in.
  uint64_t capacity_bytes = uint64_t{100} << 30;
  double live_share = 0.72;
  // Writes stop while the file system has less than this free.
  uint64_t free_floor_bytes = uint64_t{2} << 30;
  EvictionKind eviction = EvictionKind::kLru;
  uint64_t tenant_bytes = 0;    // as in RamTierOptions
  EvictionListener on_evicted;  // may be empty
  // How much is buffered before RocksDB writes a file, and the size of such a file. A crash loses
  // at most this much that Flush was not called for.
  uint64_t write_buffer_bytes = uint64_t{256} << 20;
  // Reads past the page cache: the RAM tier is the cache. Off for file systems that cannot.
  bool direct_reads = true;
};

// Opens the folder and serves what an earlier process left, without reading any value. What cannot
// be opened because it is damaged is given up, with a log line: first whatever RocksDB's best
// effort leaves out, then all of it. After a failure of the disk (full, read-only, broken) writes
// are refused and tried again later; reads go on.
// Errors: what the system says when the folder can not be used at all.
//
// Its stats: `capacity_bytes` is what pieces may use, live_share of the folder's; the folder's own
// bytes are in `medium`. A ReadHandle holds a copy in memory, checked against the checksums: it
// keeps no piece from eviction, and takes no bytes of the disk.
absl::StatusOr<std::unique_ptr<Tier>> MakeRocksdbTier(const RocksdbTierOptions& options);

// Bytes of the disk that a piece counts as.
uint64_t RocksdbTierBytes(PieceShape shape);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_TIER_H_
