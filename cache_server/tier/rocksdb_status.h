// RocksDB's status as ours.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_STATUS_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_STATUS_H_

#include "absl/status/status.h"

namespace rocksdb {
class Status;
}  // namespace rocksdb

namespace tessera {

// Whether stored bytes are wrong or gone, and not just out of reach: a checksum, a format, a file
// that should be there, a sector that cannot be read.
bool IsDamage(const rocksdb::Status& status);

// DATA_LOSS for damage, NOT_FOUND, RESOURCE_EXHAUSTED for a full disk, else UNAVAILABLE.
absl::Status FromRocksdb(const rocksdb::Status& status);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_STATUS_H_
