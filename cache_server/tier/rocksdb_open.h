// How a tier's RocksDB is set up and opened, and what is given up when it can not be.
//
// One column family. Keys:
//   "p" key               a piece's record (value_header.h), small, in the tables
//   "s" key layer         a layer slice with its header, in a blob file; layer: 4 bytes, big endian
// A piece is one write, and all of it lies in one memtable until that becomes a file: so without a
// write-ahead log a crash loses whole pieces, never parts. (Two column families would have to be
// flushed together, and RocksDB's best-effort recovery does not go with that.) The records stand
// side by side, so a start reads them and nothing else.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_OPEN_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_OPEN_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cache_server/chunk/key.h"
#include "cache_server/tier/value_header.h"

namespace rocksdb {
class CompactionFilterFactory;
class DB;
class EventListener;
}  // namespace rocksdb

namespace tessera {

// Values of at least this many bytes lie in blob files: every record is smaller.
inline constexpr size_t kLeastBlobBytes = 128;

std::string RecordKey(const ChunkKey& key);
std::string SliceKey(const ChunkKey& key, uint32_t layer);
// The piece that a stored slice belongs to; false for the key of a record.
bool PieceOfSliceKey(const char* stored_key, size_t size, ChunkKey* key);

struct OpenOptions {
  std::string folder;
  uint64_t write_buffer_bytes = 0;
  // Most bytes of blocks of tables in memory. They will be that many after a while, however few the
  // tables hold: blocks of tables that are gone stay until others push them out.
  uint64_t table_cache_bytes = 0;
  bool direct_reads = true;
  std::shared_ptr<rocksdb::EventListener> listener;
  std::shared_ptr<rocksdb::CompactionFilterFactory> filter;
};

struct OpenedDatabase {
  OpenedDatabase();
  OpenedDatabase(OpenedDatabase&&);
  OpenedDatabase& operator=(OpenedDatabase&&);
  ~OpenedDatabase();

  std::unique_ptr<rocksdb::DB> db;
  std::vector<PieceRecord> pieces;  // all that it holds, in no order
  // Something was damaged: slices may be there that no record speaks of.
  bool salvaged = false;
};

// Opens, and reads all records. When that fails because of damage, opens what RocksDB's best effort
// leaves; when that fails too, throws all content away and starts empty. Says so in the log.
// Errors: what else RocksDB says (in use by another process, not writable, full).
absl::StatusOr<OpenedDatabase> OpenDatabase(const OpenOptions& options);

// The same, but throws all content away at once.
absl::StatusOr<OpenedDatabase> OpenEmptyDatabase(const OpenOptions& options);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_OPEN_H_
