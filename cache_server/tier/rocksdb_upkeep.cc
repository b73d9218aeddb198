#include "cache_server/tier/rocksdb_upkeep.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "cache_server/tier/rocksdb_folder.h"

namespace tessera {
namespace {

// Enough to go through all blob files once.
constexpr int kMostRounds = static_cast<int>(1 / kShareOfCollectRound) + 1;

// With less garbage than this, collecting is of no use.
constexpr double kLeastGarbageShare = 0.05;

}  // namespace

absl::Status WriteErased(TierState* state, PieceDatabase* database) {
  std::vector<ErasedPiece> erased;
  {
    absl::MutexLock lock(&state->mutex);
    erased = state->index.TakeErased();
  }
  if (erased.empty()) return absl::OkStatus();
  const absl::Status status = database->Write(erased, nullptr, nullptr);
  if (!status.ok()) {
    absl::MutexLock lock(&state->mutex);
    state->index.PutBackErased(std::move(erased));
  }
  return status;
}

absl::StatusOr<ReadHandle> ReadPiece(TierState* state, PieceDatabase* database, const ChunkKey& key,
                                     const PieceIndex::Entry& entry) {
  absl::StatusOr<ReadHandle> read = database->Read(key, entry.shape, entry.tenant);
  {
    absl::MutexLock lock(&state->mutex);
    // The entry was there all the time exactly when it still is: then nothing was erased or written
    // under this key, and what was read is this one piece. Otherwise it may be anything.
    const PieceIndex::Entry* now = state->index.Find(key);
    if (now == nullptr || now->generation != entry.generation) {
      return absl::NotFoundError("erased while it was read");
    }
    if (read.ok() || !absl::IsDataLoss(read.status())) return read;
    state->index.Remove(key, EvictionReason::kDamaged);
  }
  LOG_EVENT_LIMITED(kError, "damaged_piece")
      .With("tier", "rocksdb")
      .With("key", key.ToHex())
      .WithError(read.status())
      .With("msg", "erased");
  return read;
}

Upkeep::Upkeep(const UpkeepOptions& options, TierState* state, PieceDatabase* database,
               WriteGate* gate)
    : options_(options), state_(state), database_(database), gate_(gate), thread_([this] {
        Loop();
      }) {}

void Upkeep::Stop() {
  if (!thread_.joinable()) return;
  database_->StopCollecting();
  Ask(&stopping_);
  thread_.join();
}

void Upkeep::Ask(std::atomic<bool>* what) {
  if (*what) return;
  absl::MutexLock lock(&mutex_);
  *what = true;
}

void Upkeep::CollectIfNeeded() {
  if (gate_->folder_bytes() > options_.collect_from_bytes) Ask(&collect_);
}

void Upkeep::Loop() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &Upkeep::IsAsked));
    }
    if (stopping_) return;
    if (reopen_) {
      DoReopen(/*empty=*/false);
    } else if (damage_) {
      DoHeal();
    } else if (orphans_) {
      DoDropOrphans();
    } else {
      Collect();
    }
  }
}

void Upkeep::Collect() {
  const uint64_t before = FolderBytes(options_.folder);
  const absl::Time start = absl::Now();
  CollectRounds();
  collect_ = false;
  const uint64_t after = FolderBytes(options_.folder);
  LOG_EVENT(kInfo, "disk_collected")
      .With("folder", options_.folder)
      .With("bytes_before", before)
      .With("bytes_after", after)
      .WithMs("total_ms", absl::Now() - start);
  if (after <= options_.collect_from_bytes) return;
  if (database_->GarbageShare() > kLeastGarbageShare) return;  // came while it was collected
  // So the pieces take more than they are counted as, or the limit is smaller than RocksDB's own
  // files. Only fewer pieces can help.
  absl::MutexLock lock(&state_->mutex);
  const uint64_t used = state_->index.used_bytes();
  state_->index.EvictDownTo(used - used / 20);
}

void Upkeep::CollectRounds() {
  for (int round = 0; round < kMostRounds && !stopping_ && !damage_ && !reopen_; ++round) {
    {
      absl::MutexLock lock(&state_->writing);
      if (!WriteErased(state_, database_).ok()) return;
    }
    const absl::Status status = database_->Collect(round == 0 ? 0 : kShareOfCollectRound);
    if (!status.ok()) {
      LOG_EVENT(kError, "disk_collect_failed").With("folder", options_.folder).WithError(status);
      if (absl::IsDataLoss(status)) damage_ = true;
      return;
    }
    if (FolderBytes(options_.folder) <= options_.collect_to_bytes) return;
  }
}

void Upkeep::DoHeal() {
  LOG_EVENT(kError, "damage_search")
      .With("folder", options_.folder)
      .With("msg", "reading every piece");
  std::vector<std::pair<ChunkKey, PieceIndex::Entry>> entries;
  {
    absl::MutexLock lock(&state_->mutex);
    entries.assign(state_->index.entries().begin(), state_->index.entries().end());
  }
  for (const auto& [key, entry] : entries) {
    if (stopping_ || reopen_) return;
    (void)ReadPiece(state_, database_, key, entry);
  }
  DoDropOrphans();
  damage_ = false;
}

void Upkeep::DoDropOrphans() {
  orphans_ = false;
  const absl::Status status = database_->Collect(0);
  if (absl::IsDataLoss(status)) {
    // The tables themselves are damaged: without a compaction no space would ever come back.
    LOG_EVENT(kError, "folder_given_up")
        .With("folder", options_.folder)
        .WithError(status)
        .With("msg", "all its pieces are thrown away");
    DoReopen(/*empty=*/true);
  }
}

void Upkeep::DoReopen(bool empty) {
  absl::MutexLock writing(&state_->writing);
  std::vector<PieceRecord> found;
  bool salvaged = false;
  const absl::Status status = database_->Reopen(empty, &found, &salvaged);
  reopen_ = false;  // asked for again by the next try to write, if need be
  if (!status.ok()) {
    gate_->Fail(std::string(status.message()));
    return;
  }
  absl::MutexLock lock(&state_->mutex);
  // What was in memory only is gone: those entries leave. What had left, and is back, leaves again.
  absl::flat_hash_map<ChunkKey, PieceRecord> there;
  for (const PieceRecord& piece : found) there.emplace(piece.key, piece);
  std::vector<ChunkKey> gone;
  for (const auto& [key, entry] : state_->index.entries()) {
    const auto found_again = there.find(key);
    if (found_again == there.end() || found_again->second.shape != entry.shape) {
      gone.push_back(key);
    } else {
      there.erase(found_again);
    }
  }
  for (const ChunkKey& key : gone) state_->index.Remove(key, EvictionReason::kDamaged);
  std::vector<ErasedPiece> back;
  for (const auto& [key, piece] : there) back.push_back({key, piece.shape.layers});
  state_->index.PutBackErased(std::move(back));
  if (salvaged) orphans_ = true;
  LOG_EVENT(kWarning, "folder_reopened")
      .With("folder", options_.folder)
      .With("pieces", state_->index.entries().size())
      .With("lost", gone.size());
  gate_->Recovered();
}

}  // namespace tessera
