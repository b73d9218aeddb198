#include "cache_server/tier/rocksdb_status.h"

#include <string>

#include "rocksdb/status.h"

namespace tessera {

bool IsDamage(const rocksdb::Status& status) {
  if (status.IsCorruption() || status.IsPathNotFound() || status.IsInvalidArgument()) return true;
  // A sector that the disk cannot read. RocksDB has no code for it.
  return status.IsIOError() && status.ToString().find("Input/output error") != std::string::npos;
}

absl::Status FromRocksdb(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  if (IsDamage(status)) return absl::DataLossError(status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(status.ToString());
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(status.ToString());
  return absl::UnavailableError(status.ToString());
}

}  // namespace tessera
