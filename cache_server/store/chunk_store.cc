#include "cache_server/store/chunk_store.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {

ChunkStore::ChunkStore(std::vector<std::unique_ptr<Tier>> tiers, ChunkStoreOptions options)
    : tiers_(std::move(tiers)), write_downs_(options.write_down_queue) {
  CHECK(!tiers_.empty());
  for (const auto& tier : tiers_) names_.push_back(tier->Stats().name);
  if (tiers_.size() > 1) writer_ = std::thread([this] { WriteDownLoop(); });
}

ChunkStore::~ChunkStore() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  write_downs_.Close();
  if (writer_.joinable()) writer_.join();
}

std::vector<ChunkKey> ChunkStore::FindMissing(absl::Span<const ChunkKey> keys) {
  std::vector<ChunkKey> missing(keys.begin(), keys.end());
  for (const auto& tier : tiers_) {
    if (missing.empty()) break;
    missing = tier->FindMissing(missing);
  }
  return missing;
}

absl::StatusOr<FoundPiece> ChunkStore::GetFrom(size_t tier, const ChunkKey& key) {
  absl::StatusOr<ReadHandle> handle = tiers_[tier]->Get(key);
  if (handle.ok()) return FoundPiece{*std::move(handle), names_[tier]};
  if (!absl::IsNotFound(handle.status())) {
    LOG(WARNING) << "event=tier_error tier=" << names_[tier] << " key=" << key.ToHex()
                 << " error=\"" << handle.status() << "\"";
    absl::MutexLock lock(&mutex_);
    ++counters_.tier_errors;
  }
  return absl::NotFoundError("a miss");
}

absl::StatusOr<FoundPiece> ChunkStore::Get(const ChunkKey& key) {
  absl::StatusOr<FoundPiece> found = GetFrom(0, key);
  if (found.ok() || tiers_.size() == 1) return found;

  std::shared_ptr<Load> load;
  {
    absl::MutexLock lock(&mutex_);
    std::shared_ptr<Load>& current = loads_[key];
    if (current != nullptr) {
      load = current;
      ++counters_.shared_loads;
      mutex_.Await(absl::Condition(&load->done));
      if (!load->result.ok()) return load->result.status();
      return FoundPiece{load->result->handle.Share(), load->result->tier};
    }
    current = load = std::make_shared<Load>();
  }
  found = LoadFromBelow(key);
  absl::MutexLock lock(&mutex_);
  loads_.erase(key);
  if (found.ok()) {
    load->result = FoundPiece{found->handle.Share(), found->tier};
  } else {
    load->result = found.status();
  }
  load->done = true;
  return found;
}

absl::StatusOr<FoundPiece> ChunkStore::LoadFromBelow(const ChunkKey& key) {
  // Another load may have promoted it between our miss in the first tier and the start of this one.
  if (tiers_[0]->FindMissing({&key, 1}).empty()) {
    absl::StatusOr<FoundPiece> found = GetFrom(0, key);
    if (found.ok()) return found;
  }
  for (size_t tier = 1; tier < tiers_.size(); ++tier) {
    absl::StatusOr<FoundPiece> found = GetFrom(tier, key);
    if (found.ok()) return Promote(key, *std::move(found));
  }
  return absl::NotFoundError("a miss in every tier");
}

FoundPiece ChunkStore::Promote(const ChunkKey& key, FoundPiece found) {
  absl::StatusOr<ReadHandle> promoted = CopyTo(tiers_[0].get(), key, found.handle);
  if (!promoted.ok()) return found;
  absl::MutexLock lock(&mutex_);
  ++counters_.promotions;
  return {*std::move(promoted), std::move(found.tier)};
}

absl::StatusOr<ReadHandle> ChunkStore::CopyTo(Tier* tier, const ChunkKey& key,
                                              const ReadHandle& piece) {
  ASSIGN_OR_RETURN(WriteHandle room, tier->Allocate(key, piece.shape()));
  for (uint32_t layer = 0; layer < piece.layers(); ++layer) {
    const auto slice = piece.slice(layer);
    std::memcpy(room.slice(layer).data(), slice.data(), slice.size());
    room.set_checksum(layer, piece.checksum(layer));
  }
  return tier->Commit(std::move(room));
}

absl::StatusOr<WriteHandle> ChunkStore::Allocate(const ChunkKey& key, PieceShape shape) {
  if (tiers_.size() > 1 && FindMissing({&key, 1}).empty()) {
    return absl::AlreadyExistsError("already stored");
  }
  return tiers_[0]->Allocate(key, shape);
}

absl::Status ChunkStore::Commit(WriteHandle handle) {
  const ChunkKey key = handle.key();
  ASSIGN_OR_RETURN(ReadHandle committed, tiers_[0]->Commit(std::move(handle)));
  if (tiers_.size() == 1) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  if (write_downs_.TryPush({key, std::move(committed)})) {
    ++unwritten_;
  } else {
    ++counters_.dropped_write_downs;
  }
  return absl::OkStatus();
}

absl::Status ChunkStore::Erase(const ChunkKey& key) {
  absl::Status first_error;
  for (const auto& tier : tiers_) first_error.Update(tier->Erase(key));
  return first_error;
}

void ChunkStore::WriteDownLoop() {
  while (std::optional<WriteDown> next = write_downs_.Pop()) {
    uint64_t dropped = 0;
    for (size_t tier = 1; tier < tiers_.size(); ++tier) {
      {
        absl::MutexLock lock(&mutex_);
        if (stopping_) break;
      }
      const absl::Status status = CopyTo(tiers_[tier].get(), next->key, next->handle).status();
      if (!status.ok() && !absl::IsAlreadyExists(status)) ++dropped;
    }
    next.reset();  // no longer pinned, before anyone is told that it is written
    absl::MutexLock lock(&mutex_);
    counters_.dropped_write_downs += dropped;
    --unwritten_;
  }
}

void ChunkStore::WaitForWriteDowns() {
  absl::MutexLock lock(&mutex_);
  auto written = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return unwritten_ == 0; };
  mutex_.Await(absl::Condition(&written));
}

std::vector<TierStats> ChunkStore::Stats() const {
  std::vector<TierStats> stats;
  for (const auto& tier : tiers_) stats.push_back(tier->Stats());
  return stats;
}

StoreCounters ChunkStore::counters() const {
  absl::MutexLock lock(&mutex_);
  return counters_;
}

}  // namespace tessera
