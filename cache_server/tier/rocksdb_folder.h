// The folder of a RocksDB tier, and the file system that it lies on.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_FOLDER_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_FOLDER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// An empty file of this name says that all of the folder is a tier's, to be thrown away if need be.
inline constexpr char kFolderMark[] = "TESSERA_PIECES";

// Makes the folder if it is not there, and marks it. A folder without the mark must be empty (but
// for a file system's own lost+found).
// Errors: FAILED_PRECONDITION (somebody else's files lie there); what the system says, when the
// folder can not be made or written.
absl::Status PrepareFolder(const std::string& folder);

// Bytes of the files in the folder now; 0 if it can not be read. Some 10 us and 2 us a file.
uint64_t FolderBytes(const std::string& folder);

// Bytes that are free for this process where `path` lies. Errors: what the system says.
absl::StatusOr<uint64_t> FreeBytes(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_FOLDER_H_
