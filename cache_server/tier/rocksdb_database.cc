#include "cache_server/tier/rocksdb_database.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cache_server/tier/rocksdb_hooks.h"
#include "cache_server/tier/rocksdb_status.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"

namespace tessera {
namespace {

// The slices of one piece as they were read, for a ReadHandle.
struct ReadSlices {
  explicit ReadSlices(uint32_t layers) : stored(layers), starts(layers), checksums(layers) {}

  std::vector<rocksdb::PinnableSlice> stored;
  std::vector<const std::byte*> starts;
  std::vector<uint64_t> checksums;
};

absl::Status ReadSlice(rocksdb::DB* db, const ChunkKey& key, uint32_t layer, uint64_t slice_bytes,
                       ReadSlices* into) {
  const rocksdb::ReadOptions read;
  rocksdb::PinnableSlice& stored = into->stored[layer];
  const rocksdb::Status status =
      db->Get(read, db->DefaultColumnFamily(), SliceKey(key, layer), &stored);
  if (status.IsNotFound()) return absl::DataLossError("it is missing");
  if (!status.ok()) return FromRocksdb(status);
  if (stored.size() < kLeastBlobBytes && stored.IsPinned()) {
    // Not a blob, which would be a copy of its own, but a part of a table in RocksDB's cache.
    const std::string copy = stored.ToString();
    stored.Reset();
    stored.PinSelf(copy);
  }
  ASSIGN_OR_RETURN(
      const absl::Span<const std::byte> payload,
      CheckedPayload({reinterpret_cast<const std::byte*>(stored.data()), stored.size()}, key, layer,
                     slice_bytes, &into->checksums[layer]));
  into->starts[layer] = payload.data();
  return absl::OkStatus();
}

rocksdb::Slice AsSlice(absl::Span<const std::byte> bytes) {
  return rocksdb::Slice(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::Status AddPiece(const PieceRecord& piece, const ReadHandle& bytes,
                      rocksdb::WriteBatch* batch) {
  for (uint32_t layer = 0; layer < piece.shape.layers; ++layer) {
    const auto header = EncodeSliceHeader({.key = piece.key,
                                           .layer = layer,
                                           .payload_bytes = piece.shape.slice_bytes,
                                           .checksum = bytes.checksum(layer)});
    const std::string stored_key = SliceKey(piece.key, layer);
    const rocksdb::Slice key_parts[] = {stored_key};
    const rocksdb::Slice value_parts[] = {AsSlice(header), AsSlice(bytes.slice(layer))};
    const rocksdb::Status put =
        batch->Put(rocksdb::SliceParts(key_parts, 1), rocksdb::SliceParts(value_parts, 2));
    if (!put.ok()) return FromRocksdb(put);
  }
  const auto record = EncodePieceRecord(piece);
  return FromRocksdb(batch->Put(RecordKey(piece.key), AsSlice(record)));
}

absl::Status AddErased(const ErasedPiece& erased, rocksdb::WriteBatch* batch) {
  for (uint32_t layer = 0; layer < erased.layers; ++layer) {
    RETURN_IF_ERROR(FromRocksdb(batch->Delete(SliceKey(erased.key, layer))));
  }
  return FromRocksdb(batch->Delete(RecordKey(erased.key)));
}

absl::Status ClosedError() { return absl::FailedPreconditionError("the database is closed"); }

}  // namespace

PieceDatabase::PieceDatabase(DatabaseOptions options)
    : options_(std::move(options)),
      collecting_(std::make_shared<std::atomic<bool>>(false)),
      listener_(MakeFailureListener(options_)),
      filter_(MakeSliceFilters(options_, collecting_)) {}

OpenOptions PieceDatabase::OpeningOptions() const {
  return {.folder = options_.folder,
          .write_buffer_bytes = options_.write_buffer_bytes,
          .table_cache_bytes = options_.table_cache_bytes,
          .direct_reads = options_.direct_reads,
          .listener = listener_,
          .filter = filter_};
}

absl::StatusOr<std::unique_ptr<PieceDatabase>> PieceDatabase::Open(DatabaseOptions options,
                                                                   std::vector<PieceRecord>* found,
                                                                   bool* salvaged) {
  std::unique_ptr<PieceDatabase> database(new PieceDatabase(std::move(options)));
  ASSIGN_OR_RETURN(OpenedDatabase opened, OpenDatabase(database->OpeningOptions()));
  *found = std::move(opened.pieces);
  *salvaged = opened.salvaged;
  absl::MutexLock lock(&database->mutex_);
  database->db_ = std::move(opened.db);
  return database;
}

PieceDatabase::~PieceDatabase() {
  const absl::Status flushed = Flush();
  if (!flushed.ok() && !absl::IsFailedPrecondition(flushed)) {
    LOG_EVENT(kError, "flush_failed").With("folder", options_.folder).WithError(flushed);
  }
  absl::MutexLock lock(&mutex_);
  db_.reset();
}

absl::StatusOr<ReadHandle> PieceDatabase::Read(const ChunkKey& key, PieceShape shape,
                                               const Tenant& tenant) {
  // By one thread: two that share a piece measured no faster, and those who load pieces are
  // several.
  const auto slices = std::make_shared<ReadSlices>(shape.layers);
  absl::ReaderMutexLock lock(&mutex_);
  if (db_ == nullptr) return ClosedError();
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    const absl::Status status = ReadSlice(db_.get(), key, layer, shape.slice_bytes, slices.get());
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("layer ", layer, ": ", status.message()));
    }
  }
  return ReadHandle(shape, slices->starts.data(), slices->checksums.data(), slices, tenant);
}

absl::Status PieceDatabase::Write(absl::Span<const ErasedPiece> erased, const PieceRecord* piece,
                                  const ReadHandle* bytes) {
  constexpr uint64_t kBytesBesides = 256;  // of a slice: header, key, lengths; generously
  rocksdb::WriteBatch batch(
      piece == nullptr ? 0 : piece->shape.bytes() + (piece->shape.layers + 1) * kBytesBesides);
  for (const ErasedPiece& gone : erased) RETURN_IF_ERROR(AddErased(gone, &batch));
  if (piece != nullptr) RETURN_IF_ERROR(AddPiece(*piece, *bytes, &batch));
  rocksdb::WriteOptions write;
  write.disableWAL = true;  // a lost tail is only misses
  absl::ReaderMutexLock lock(&mutex_);
  if (db_ == nullptr) return ClosedError();
  return FromRocksdb(db_->Write(write, &batch));
}

absl::Status PieceDatabase::Flush() {
  absl::ReaderMutexLock lock(&mutex_);
  if (db_ == nullptr) return ClosedError();
  rocksdb::FlushOptions flush;
  flush.wait = true;
  flush.allow_write_stall = true;
  return FromRocksdb(db_->Flush(flush));
}

absl::Status PieceDatabase::Resume() {
  absl::ReaderMutexLock lock(&mutex_);
  if (db_ == nullptr) return absl::DataLossError("the database is closed");
  const rocksdb::Status status = db_->Resume();
  if (!status.ok() && status.severity() >= rocksdb::Status::kFatalError) {
    return absl::DataLossError(status.ToString());
  }
  return FromRocksdb(status);
}

absl::Status PieceDatabase::Reopen(bool empty, std::vector<PieceRecord>* found, bool* salvaged) {
  absl::MutexLock lock(&mutex_);
  db_.reset();
  absl::StatusOr<OpenedDatabase> opened =
      empty ? OpenEmptyDatabase(OpeningOptions()) : OpenDatabase(OpeningOptions());
  if (!opened.ok()) return opened.status();
  db_ = std::move(opened->db);
  *found = std::move(opened->pieces);
  *salvaged = opened->salvaged;
  return absl::OkStatus();
}

absl::Status PieceDatabase::Collect(double share) {
  absl::ReaderMutexLock lock(&mutex_);
  if (db_ == nullptr) return ClosedError();
  rocksdb::CompactRangeOptions compact;
  compact.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
  compact.canceled = &stop_collecting_;
  compact.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kDisable;
  if (share > 0) {
    // RocksDB rounds the number of files down: half a file more makes it at least one.
    const double files = ReadFigure("rocksdb.num-blob-files");
    const double oldest = std::max(1.0, files * share);
    compact.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
    compact.blob_garbage_collection_age_cutoff =
        std::min(1.0, (oldest + 0.5) / std::max(1.0, files));
  }
  *collecting_ = true;
  const rocksdb::Status status = db_->CompactRange(compact, nullptr, nullptr);
  *collecting_ = false;
  return status.IsIncomplete() ? absl::OkStatus() : FromRocksdb(status);  // stopped
}

double PieceDatabase::ReadFigure(const char* property) const {
  uint64_t value = 0;
  return db_->GetIntProperty(property, &value) ? static_cast<double>(value) : 0;
}

double PieceDatabase::GarbageShare() const {
  absl::ReaderMutexLock lock(&mutex_);
  if (db_ == nullptr) return 0;
  const double bytes = ReadFigure("rocksdb.live-blob-file-size");
  return bytes > 0 ? ReadFigure("rocksdb.live-blob-file-garbage-size") / bytes : 0;
}

uint64_t PieceDatabase::MemoryBytes() const {
  absl::ReaderMutexLock lock(&mutex_);
  if (db_ == nullptr) return 0;
  return static_cast<uint64_t>(ReadFigure("rocksdb.cur-size-all-mem-tables"));
}

void PieceDatabase::AddFigures(std::vector<std::pair<std::string, double>>* figures) const {
  struct Figure {
    const char* name;
    const char* property;
  };
  constexpr Figure kFigures[] = {
      {"stall_stopped", "rocksdb.is-write-stopped"},
      {"stall_delayed_bytes_per_second", "rocksdb.actual-delayed-write-rate"},
      {"background_errors", "rocksdb.background-errors"},
      {"blob_bytes", "rocksdb.total-blob-file-size"},
      {"blob_garbage_bytes", "rocksdb.live-blob-file-garbage-size"},
      {"blob_files", "rocksdb.num-blob-files"},
      {"table_bytes", "rocksdb.total-sst-files-size"},
      {"memory_bytes", "rocksdb.cur-size-all-mem-tables"},
      {"table_cache_bytes", "rocksdb.block-cache-usage"},
      {"table_reader_bytes", "rocksdb.estimate-table-readers-mem"},
  };
  absl::ReaderMutexLock lock(&mutex_);
  if (db_ == nullptr) return;
  for (const Figure& figure : kFigures) {
    figures->emplace_back(figure.name, ReadFigure(figure.property));
  }
}

}  // namespace tessera
