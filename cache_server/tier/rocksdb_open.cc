#include "cache_server/tier/rocksdb_open.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cache_server/tier/rocksdb_status.h"
#include "rocksdb/cache.h"
#include "rocksdb/compaction_filter.h"
#include "rocksdb/convenience.h"
#include "rocksdb/db.h"
#include "rocksdb/env.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/listener.h"
#include "rocksdb/table.h"

namespace tessera {
namespace {

constexpr char kRecordPrefix = 'p';
constexpr char kSlicePrefix = 's';
constexpr size_t kKeyBytes = sizeof(ChunkKey::bytes);

rocksdb::BlockBasedTableOptions TableOptions(uint64_t cache_bytes) {
  rocksdb::BlockBasedTableOptions table;
  table.checksum = rocksdb::kXXH3;
  table.block_cache = rocksdb::NewLRUCache(cache_bytes);
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  return table;
}

rocksdb::Options BaseOptions(const OpenOptions& wanted) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.skip_stats_update_on_db_open = true;  // reads tables
  // Tables and blob files are opened when they are first read: a start opens hardly any.
  options.max_open_files = 2048;
  // Buffered writes, sent to the disk as they come; direct ones are many times slower here.
  options.bytes_per_sync = 1 << 20;
  options.use_direct_reads = wanted.direct_reads;
  options.max_background_jobs = 4;
  options.info_log_level = rocksdb::WARN_LEVEL;
  options.max_log_file_size = 4 << 20;
  options.keep_log_file_num = 2;
  options.max_manifest_file_size = 16 << 20;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  if (wanted.listener != nullptr) options.listeners.push_back(wanted.listener);

  options.write_buffer_size = wanted.write_buffer_bytes;
  options.max_write_buffer_number = 3;
  options.compaction_filter_factory = wanted.filter;
  options.table_factory.reset(
      rocksdb::NewBlockBasedTableFactory(TableOptions(wanted.table_cache_bytes)));
  options.compression = rocksdb::kNoCompression;
  options.target_file_size_base = 4 << 20;
  // A compaction moves places of slices, not slices: it is cheap, and should never stop writes.
  options.level0_file_num_compaction_trigger = 4;
  options.level0_slowdown_writes_trigger = 40;
  options.level0_stop_writes_trigger = 64;

  options.enable_blob_files = true;
  options.min_blob_size = kLeastBlobBytes;
  options.blob_file_size = wanted.write_buffer_bytes;
  options.blob_compression_type = rocksdb::kNoCompression;  // KV of 16 bits does not compress
  options.blob_compaction_readahead_size = 4 << 20;
  // Not in compactions of RocksDB's own choice: each would move a share of all slices, garbage or
  // none. PieceDatabase::Collect does it when the folder needs the room.
  options.enable_blob_garbage_collection = false;
  return options;
}

absl::StatusOr<std::unique_ptr<rocksdb::DB>> Open(const rocksdb::Options& options,
                                                  const std::string& folder) {
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(options, folder, &db);
  if (!status.ok()) return FromRocksdb(status);
  return std::unique_ptr<rocksdb::DB>(db);
}

// Reads every record. One that is not a record is deleted; compactions then drop its slices.
absl::Status ReadRecords(OpenedDatabase* opened) {
  rocksdb::ReadOptions read;
  read.fill_cache = false;
  const std::string after(1, kRecordPrefix + 1);
  const rocksdb::Slice bound(after);
  read.iterate_upper_bound = &bound;
  std::vector<std::string> broken;
  const std::unique_ptr<rocksdb::Iterator> at(opened->db->NewIterator(read));
  for (at->Seek(rocksdb::Slice(&kRecordPrefix, 1)); at->Valid(); at->Next()) {
    const rocksdb::Slice value = at->value();
    absl::StatusOr<PieceRecord> record =
        ParsePieceRecord({reinterpret_cast<const std::byte*>(value.data()), value.size()});
    if (record.ok() && at->key() == RecordKey(record->key)) {
      opened->pieces.push_back(*std::move(record));
    } else {
      broken.push_back(at->key().ToString());
    }
  }
  if (!at->status().ok()) return FromRocksdb(at->status());
  if (broken.empty()) return absl::OkStatus();
  LOG_EVENT(kError, "damaged_records")
      .With("folder", opened->db->GetName())
      .With("erased", broken.size());
  opened->salvaged = true;
  rocksdb::WriteOptions write;
  write.disableWAL = true;
  for (const std::string& key : broken) (void)opened->db->Delete(write, key);
  return absl::OkStatus();
}

absl::StatusOr<OpenedDatabase> OpenAndRead(const OpenOptions& wanted) {
  OpenedDatabase opened;
  ASSIGN_OR_RETURN(opened.db, Open(BaseOptions(wanted), wanted.folder));
  RETURN_IF_ERROR(ReadRecords(&opened));
  return opened;
}

// Whether the folder has files of a database, but not the one that names them: opened as it is,
// RocksDB would make a new one and delete the rest.
bool LostItsNames(const std::string& folder) {
  rocksdb::Env* env = rocksdb::Env::Default();
  if (env->FileExists(folder + "/CURRENT").ok()) return false;
  std::vector<std::string> names;
  (void)env->GetChildren(folder, &names);
  for (const std::string& name : names) {
    if (name.rfind("MANIFEST-", 0) == 0) return true;
  }
  return false;
}

// Rewinds the folder to the last state of which every file is there and as long as it should be.
absl::Status RewindToWholeState(const OpenOptions& wanted) {
  rocksdb::Options options = BaseOptions(wanted);
  options.best_efforts_recovery = true;
  return Open(options, wanted.folder).status();
}

// Whether another process has the folder open. (RocksDB answers that as it does a broken disk.)
absl::Status CheckUnused(const std::string& folder) {
  rocksdb::FileLock* lock = nullptr;
  rocksdb::Env* env = rocksdb::Env::Default();
  const rocksdb::Status locked = env->LockFile(folder + "/LOCK", &lock);
  if (!locked.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the folder ", folder, " is in use, or can not be locked: ", locked.ToString()));
  }
  (void)env->UnlockFile(lock);
  return absl::OkStatus();
}

}  // namespace

OpenedDatabase::OpenedDatabase() = default;
OpenedDatabase::OpenedDatabase(OpenedDatabase&&) = default;
OpenedDatabase& OpenedDatabase::operator=(OpenedDatabase&&) = default;
OpenedDatabase::~OpenedDatabase() = default;

std::string RecordKey(const ChunkKey& key) {
  return std::string(1, kRecordPrefix).append(key.AsBytes());
}

std::string SliceKey(const ChunkKey& key, uint32_t layer) {
  std::string stored = std::string(1, kSlicePrefix).append(key.AsBytes());
  for (int shift = 24; shift >= 0; shift -= 8) {
    stored.push_back(static_cast<char>(layer >> shift));
  }
  return stored;
}

bool PieceOfSliceKey(const char* stored_key, size_t size, ChunkKey* key) {
  if (size != 1 + kKeyBytes + sizeof(uint32_t) || stored_key[0] != kSlicePrefix) return false;
  std::copy_n(stored_key + 1, kKeyBytes, key->bytes.begin());
  return true;
}

absl::StatusOr<OpenedDatabase> OpenDatabase(const OpenOptions& options) {
  RETURN_IF_ERROR(CheckUnused(options.folder));
  absl::Status damage = absl::DataLossError("CURRENT is missing");
  if (!LostItsNames(options.folder)) {
    absl::StatusOr<OpenedDatabase> opened = OpenAndRead(options);
    if (opened.ok() || !absl::IsDataLoss(opened.status())) return opened;
    damage = opened.status();
  }
  LOG_EVENT(kError, "damaged_folder")
      .With("folder", options.folder)
      .WithError(damage)
      .With("msg", "opening what is left");
  const absl::Status rewound = RewindToWholeState(options);
  if (!rewound.ok() && !absl::IsDataLoss(rewound)) return rewound;
  if (rewound.ok()) {
    absl::StatusOr<OpenedDatabase> opened = OpenAndRead(options);
    if (opened.ok()) {
      opened->salvaged = true;
      LOG_EVENT(kError, "folder_salvaged")
          .With("folder", options.folder)
          .With("pieces", opened->pieces.size());
      return opened;
    }
    if (!absl::IsDataLoss(opened.status())) return opened;
    damage = opened.status();
  } else {
    damage = rewound;
  }
  LOG_EVENT(kError, "folder_given_up")
      .With("folder", options.folder)
      .WithError(damage)
      .With("msg", "all its pieces are thrown away");
  return OpenEmptyDatabase(options);
}

absl::StatusOr<OpenedDatabase> OpenEmptyDatabase(const OpenOptions& options) {
  const rocksdb::Status destroyed = rocksdb::DestroyDB(options.folder, BaseOptions(options));
  if (!destroyed.ok()) return FromRocksdb(destroyed);
  return OpenAndRead(options);
}

}  // namespace tessera
