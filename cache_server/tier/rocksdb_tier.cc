#include "cache_server/tier/rocksdb_tier.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cache_server/chunk/buffer.h"
#include "cache_server/tier/rocksdb_crc32c.h"
#include "cache_server/tier/rocksdb_database.h"
#include "cache_server/tier/rocksdb_folder.h"
#include "cache_server/tier/rocksdb_gate.h"
#include "cache_server/tier/rocksdb_index.h"
#include "cache_server/tier/rocksdb_upkeep.h"
#include "glog/logging.h"

namespace tessera {
namespace {

// Memory of all WriteHandles together. Pieces come from one thread, one at a time.
constexpr uint64_t kMostUnfinishedBytes = uint64_t{512} << 20;

// A piece that is being written: its memory, and its bytes set aside on the disk.
struct UnfinishedPiece {
  ~UnfinishedPiece() {
    buffer = Buffer();  // freed before it is counted as free
    absl::MutexLock lock(&state->mutex);
    state->unfinished_bytes -= bytes;
    if (reserved) state->index.Release(bytes, tenant);
  }

  std::shared_ptr<TierState> state;
  Tenant tenant;
  uint64_t bytes = 0;    // on the disk, which is a little more than in memory
  bool reserved = true;  // until it is an entry. Guarded by the state's mutex.
  Buffer buffer;
  std::vector<uint64_t> checksums;
};

// How full the folder may get, from what pieces may use (0) to all of it (1): collecting brings it
// below the first, starts at the second, and writes stop at the third. Above that is room for what
// a round of collecting moves.
constexpr double kCollectTo = 0.3;
constexpr double kCollectFrom = 0.5;
constexpr double kFull = 0.75;

uint64_t FolderLimit(const RocksdbTierOptions& options, double at) {
  const double share = options.live_share + (1 - options.live_share) * at;
  return static_cast<uint64_t>(static_cast<double>(options.capacity_bytes) * share);
}

uint64_t LimitOf(const RocksdbTierOptions& options) { return FolderLimit(options, 0); }

// The tables hold records and the places of slices, some 100 bytes a slice, and slices of models
// have 100 KiB and more: with this much cache hardly any read of a slice needs a second one for its
// place.
uint64_t TableCacheBytes(const RocksdbTierOptions& options) {
  return std::clamp(options.capacity_bytes / 1024, uint64_t{8} << 20, uint64_t{64} << 20);
}

class RocksdbTier : public Tier {
 public:
  explicit RocksdbTier(const RocksdbTierOptions& options)
      : options_(options),
        state_(std::make_shared<TierState>(PieceIndexOptions{.eviction = options.eviction,
                                                             .limit_bytes = LimitOf(options),
                                                             .tenant_bytes = options.tenant_bytes,
                                                             .on_evicted = options.on_evicted})),
        gate_({.folder = options.folder,
               .full_bytes = FolderLimit(options, kFull),
               .reopen_bytes = FolderLimit(options, kCollectFrom),
               .free_floor_bytes = options.free_floor_bytes}) {}

  ~RocksdbTier() override;

  absl::Status Open();

  std::optional<PieceShape> Find(const ChunkKey& key) override {
    absl::MutexLock lock(&state_->mutex);
    const PieceIndex::Entry* entry = state_->index.Find(key);
    if (entry == nullptr) return std::nullopt;
    return entry->shape;
  }

  absl::StatusOr<ReadHandle> Get(const ChunkKey& key) override;
  absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape,
                                       const Tenant& tenant) override;
  absl::StatusOr<ReadHandle> Commit(WriteHandle handle) override;
  absl::Status Erase(const ChunkKey& key) override;
  absl::Status Flush() override;
  std::vector<TierEntry> List() const override;
  TierStats Stats() const override;

 private:
  DatabaseOptions MakeDatabaseOptions();
  absl::Status AdmitWrite(uint64_t bytes);
  absl::StatusOr<std::shared_ptr<UnfinishedPiece>> Reserve(const ChunkKey& key, PieceShape shape,
                                                           const Tenant& tenant);
  absl::Status WritePiece(const PieceRecord& piece, const ReadHandle& bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->writing);
  // What left the index is erased by whoever writes next: this thread now, if nobody does.
  void WriteErasedIfIdle();

  const RocksdbTierOptions options_;
  const std::shared_ptr<TierState> state_;
  WriteGate gate_;
  std::unique_ptr<PieceDatabase> database_;
  std::unique_ptr<Upkeep> upkeep_;
  // The same, for RocksDB's threads, which run before it is made.
  std::atomic<Upkeep*> upkeep_now_{nullptr};
};

RocksdbTier::~RocksdbTier() {
  if (database_ == nullptr) return;
  if (upkeep_ != nullptr) upkeep_->Stop();
  {
    absl::MutexLock writing(&state_->writing);
    (void)WriteErased(state_.get(), database_.get());
  }
  // RocksDB's threads call the gate and the upkeep until it is closed.
  database_.reset();
}

DatabaseOptions RocksdbTier::MakeDatabaseOptions() {
  return {
      .folder = options_.folder,
      // Three buffers and their files must be small against the folder.
      .write_buffer_bytes = std::max<uint64_t>(
          64 << 10, std::min(options_.capacity_bytes / 16, options_.write_buffer_bytes)),
      .table_cache_bytes = TableCacheBytes(options_),
      .direct_reads = options_.direct_reads,
      .on_failed = [this](const std::string& error) { gate_.Fail(error); },
      .on_recovered = [this] { gate_.Recovered(); },
      .on_damage =
          [this](const std::string& error) {
            LOG_EVENT_LIMITED(kError, "damage_met")
                .With("folder", options_.folder)
                .With("error", error);
            if (Upkeep* const upkeep = upkeep_now_) upkeep->Heal();
          },
      .is_wanted = [state = state_](const ChunkKey& key) { return state->IsWanted(key); },
  };
}

absl::Status RocksdbTier::Open() {
  RETURN_IF_ERROR(PrepareFolder(options_.folder));
  const absl::Time start = absl::Now();
  std::vector<PieceRecord> found;
  bool salvaged = false;
  ASSIGN_OR_RETURN(database_, PieceDatabase::Open(MakeDatabaseOptions(), &found, &salvaged));
  std::sort(found.begin(), found.end(),
            [](const PieceRecord& a, const PieceRecord& b) { return a.added < b.added; });
  {
    absl::MutexLock lock(&state_->mutex);
    for (const PieceRecord& piece : found) state_->index.Add(piece);
    state_->index.EvictDownTo(state_->index.limit_bytes());
    LOG_EVENT(kInfo, "disk_opened")
        .With("folder", options_.folder)
        .With("pieces", state_->index.entries().size())
        .With("bytes", state_->index.used_bytes())
        .With("fast_crc32c", FastCrc32cIsUsed())
        .WithMs("total_ms", absl::Now() - start);
  }
  upkeep_ = std::make_unique<Upkeep>(
      UpkeepOptions{.folder = options_.folder,
                    .collect_from_bytes = FolderLimit(options_, kCollectFrom),
                    .collect_to_bytes = FolderLimit(options_, kCollectTo)},
      state_.get(), database_.get(), &gate_);
  upkeep_now_ = upkeep_.get();
  if (salvaged) upkeep_->DropOrphans();
  return absl::OkStatus();
}

absl::StatusOr<ReadHandle> RocksdbTier::Get(const ChunkKey& key) {
  PieceIndex::Entry entry;
  {
    absl::MutexLock lock(&state_->mutex);
    const PieceIndex::Entry* found = state_->index.Use(key, absl::Now());
    if (found == nullptr) return absl::NotFoundError("not on the disk");
    entry = *found;
  }
  absl::StatusOr<ReadHandle> read = ReadPiece(state_.get(), database_.get(), key, entry);
  if (absl::IsDataLoss(read.status())) WriteErasedIfIdle();
  return read;
}

absl::Status RocksdbTier::AdmitWrite(uint64_t bytes) {
  if (gate_.ShouldRetry()) {
    const absl::Status resumed = database_->Resume();
    if (resumed.ok()) {
      gate_.Recovered();
    } else if (absl::IsDataLoss(resumed)) {
      upkeep_->Reopen();
    }
  }
  const absl::Status admitted = gate_.Admit(bytes, database_->MemoryBytes());
  upkeep_->CollectIfNeeded();
  return admitted;
}

absl::StatusOr<std::shared_ptr<UnfinishedPiece>> RocksdbTier::Reserve(const ChunkKey& key,
                                                                      PieceShape shape,
                                                                      const Tenant& tenant) {
  const uint64_t bytes = RocksdbTierBytes(shape);
  absl::MutexLock lock(&state_->mutex);
  if (state_->index.Find(key) != nullptr) return absl::AlreadyExistsError("already on the disk");
  if (state_->unfinished_bytes + bytes > kMostUnfinishedBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "no memory for ", bytes, " bytes on their way to the disk: ", state_->unfinished_bytes,
        " of ", kMostUnfinishedBytes, " used"));
  }
  RETURN_IF_ERROR(state_->index.Reserve(bytes, tenant));
  state_->unfinished_bytes += bytes;
  auto piece = std::make_shared<UnfinishedPiece>();
  piece->state = state_;
  piece->tenant = tenant;
  piece->bytes = bytes;
  return piece;
}

absl::StatusOr<WriteHandle> RocksdbTier::Allocate(const ChunkKey& key, PieceShape shape,
                                                  const Tenant& tenant) {
  if (!IsValidShape(shape)) return absl::InvalidArgumentError("impossible sizes of a piece");
  if (Find(key).has_value()) return absl::AlreadyExistsError("already on the disk");
  // Before anybody is evicted for it.
  RETURN_IF_ERROR(AdmitWrite(RocksdbTierBytes(shape)));
  ASSIGN_OR_RETURN(std::shared_ptr<UnfinishedPiece> piece, Reserve(key, shape, tenant));
  ASSIGN_OR_RETURN(piece->buffer, Buffer::Allocate(shape.bytes()));
  piece->checksums.resize(shape.layers);
  UnfinishedPiece& room = *piece;
  return WriteHandle(this, key, shape, room.buffer.mutable_view().data(), room.checksums.data(),
                     std::move(piece), tenant);
}

absl::StatusOr<ReadHandle> RocksdbTier::Commit(WriteHandle handle) {
  CHECK(handle.tier() == this) << "a handle of another tier";
  const auto room = std::static_pointer_cast<UnfinishedPiece>(handle.room());
  const PieceRecord piece = {.key = handle.key(),
                             .shape = handle.shape(),
                             .tenant = handle.tenant(),
                             .added = absl::Now()};
  ReadHandle bytes = std::move(handle).KeepPrivate();
  absl::MutexLock writing(&state_->writing);
  {
    absl::MutexLock lock(&state_->mutex);
    if (state_->index.Find(piece.key) != nullptr) {
      return absl::AlreadyExistsError("already on the disk");
    }
    state_->being_written = piece.key;
  }
  const absl::Status written = WritePiece(piece, bytes);
  absl::MutexLock lock(&state_->mutex);
  state_->being_written.reset();
  if (!written.ok()) return written;
  state_->index.Release(room->bytes, room->tenant);
  room->reserved = false;
  state_->index.Add(piece);
  return bytes;
}

absl::Status RocksdbTier::WritePiece(const PieceRecord& piece, const ReadHandle& bytes) {
  std::vector<ErasedPiece> erased;
  {
    absl::MutexLock lock(&state_->mutex);
    erased = state_->index.TakeErased();
  }
  const absl::Status status = database_->Write(erased, &piece, &bytes);
  if (status.ok()) return status;
  gate_.Fail(std::string(status.message()));
  absl::MutexLock lock(&state_->mutex);
  state_->index.PutBackErased(std::move(erased));
  return absl::ResourceExhaustedError(
      absl::StrCat("the disk did not take it: ", absl::string_view(status.message())));
}

absl::Status RocksdbTier::Erase(const ChunkKey& key) {
  {
    absl::MutexLock lock(&state_->mutex);
    if (!state_->index.Remove(key, EvictionReason::kErased)) return absl::OkStatus();
  }
  WriteErasedIfIdle();
  return absl::OkStatus();
}

void RocksdbTier::WriteErasedIfIdle() {
  if (!state_->writing.TryLock()) return;
  (void)WriteErased(state_.get(), database_.get());
  state_->writing.Unlock();
}

absl::Status RocksdbTier::Flush() {
  {
    absl::MutexLock writing(&state_->writing);
    RETURN_IF_ERROR(WriteErased(state_.get(), database_.get()));
  }
  return database_->Flush();
}

std::vector<TierEntry> RocksdbTier::List() const {
  std::vector<TierEntry> entries;
  absl::MutexLock lock(&state_->mutex);
  entries.reserve(state_->index.entries().size());
  for (const auto& [key, entry] : state_->index.entries()) {
    entries.push_back({key, entry.shape, entry.tenant, entry.added, entry.used});
  }
  return entries;
}

TierStats RocksdbTier::Stats() const {
  TierStats stats;
  stats.name = "rocksdb";
  stats.capacity_bytes = LimitOf(options_);
  {
    absl::MutexLock lock(&state_->mutex);
    stats.used_bytes = state_->index.used_bytes();
    stats.entries = state_->index.entries().size();
    stats.evictions = state_->index.evictions();
  }
  database_->AddFigures(&stats.medium);
  gate_.AddFigures(&stats.medium);
  return stats;
}

}  // namespace

uint64_t RocksdbTierBytes(PieceShape shape) {
  // A slice's header, its key twice (in the blob file and in a table), lengths, checksums, filter;
  // then the record.
  constexpr uint64_t kBytesASlice = 256;
  return shape.bytes() + (shape.layers + 1) * kBytesASlice;
}

absl::StatusOr<std::unique_ptr<Tier>> MakeRocksdbTier(const RocksdbTierOptions& options) {
  if (options.live_share <= 0 || options.live_share >= 1) {
    return absl::InvalidArgumentError("live_share must lie between 0 and 1");
  }
  auto tier = std::make_unique<RocksdbTier>(options);
  RETURN_IF_ERROR(tier->Open());
  return tier;
}

}  // namespace tessera
