// What RocksDB calls back: when it fails, and when it rewrites slices.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_HOOKS_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_HOOKS_H_

#include <atomic>
#include <memory>

#include "cache_server/tier/rocksdb_database.h"

namespace tessera {

// Tells `options` of failures. A compaction that meets damage is no reason to stop writes: RocksDB
// would, for good.
std::shared_ptr<rocksdb::EventListener> MakeFailureListener(const DatabaseOptions& options);

// Drops slices of pieces that `options.is_wanted` denies, while `*active`.
std::shared_ptr<rocksdb::CompactionFilterFactory> MakeSliceFilters(
    const DatabaseOptions& options, std::shared_ptr<std::atomic<bool>> active);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_HOOKS_H_
