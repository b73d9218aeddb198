#include "cache_server/store/chunk_store.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/notification.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {
namespace {

std::vector<Tier*> LowerTiers(const std::vector<std::unique_ptr<Tier>>& tiers) {
  CHECK(!tiers.empty());
  std::vector<Tier*> lower;
  for (size_t i = 1; i < tiers.size(); ++i) lower.push_back(tiers[i].get());
  return lower;
}

}  // namespace

ChunkStore::ChunkStore(std::vector<std::unique_ptr<Tier>> tiers, ChunkStoreOptions options,
                       KeyEvents* events)
    : tiers_(std::move(tiers)),
      events_(events),
      admission_(MakeAdmissionPolicy(options.admission)),
      promotion_(MakePromotionPolicy(options.promotion)),
      lookups_(tiers_.size() + 1),
      pins_(options.pins),
      write_behind_(LowerTiers(tiers_), options.write_behind),
      loader_(options.loader, [this](const ChunkKey& key) { return LoadFromBelow(key); }) {
  for (const auto& tier : tiers_) names_.push_back(tier->Stats().name);
}

ChunkStore::~ChunkStore() = default;

std::vector<ChunkKey> ChunkStore::FindMissing(absl::Span<const ChunkKey> keys) {
  std::vector<ChunkKey> missing;
  for (const ChunkKey& key : keys) {
    if (!Find(key)) missing.push_back(key);
  }
  return missing;
}

std::optional<FoundPlace> ChunkStore::Find(const ChunkKey& key) {
  const bool erased_below = write_behind_.IsForgotten(key);
  for (size_t i = 0; i < (erased_below ? 1 : tiers_.size()); ++i) {
    if (const auto shape = tiers_[i]->Find(key)) return FoundPlace{*shape, names_[i], i};
  }
  return std::nullopt;
}

absl::StatusOr<FoundPiece> ChunkStore::GetFrom(size_t tier, const ChunkKey& key) {
  absl::StatusOr<ReadHandle> handle = tiers_[tier]->Get(key);
  if (handle.ok()) return FoundPiece{*std::move(handle), names_[tier]};
  if (!absl::IsNotFound(handle.status())) {
    LOG_EVENT_LIMITED(kWarning, "tier_error")
        .With("tier", names_[tier])
        .With("key", key.ToHex())
        .WithError(handle.status());
    tier_errors_.fetch_add(1, std::memory_order_relaxed);
  }
  return absl::NotFoundError("a miss");
}

absl::StatusOr<FoundPiece> ChunkStore::GetFast(const ChunkKey& key) {
  ASSIGN_OR_RETURN(FoundPiece found, GetFrom(0, key));
  WriteDownIfAdmitted(key, found.handle, false);
  return found;
}

void ChunkStore::Load(const ChunkKey& key, LoadCallback done) {
  if (tiers_.size() == 1) {
    done(absl::NotFoundError("a miss"));
    return;
  }
  loader_.Load(key, std::move(done));
}

absl::StatusOr<FoundPiece> ChunkStore::Get(const ChunkKey& key) {
  absl::StatusOr<FoundPiece> found = GetFast(key);
  if (found.ok() || tiers_.size() == 1) return found;
  absl::Notification loaded;
  Load(key, [&found, &loaded](absl::StatusOr<FoundPiece> result) {
    found = std::move(result);
    loaded.Notify();
  });
  loaded.WaitForNotification();
  return found;
}

absl::StatusOr<FoundPiece> ChunkStore::LoadFromBelow(const ChunkKey& key) {
  // Another load may have promoted it between our miss in the first tier and the start of this one.
  if (tiers_[0]->Find(key)) {
    absl::StatusOr<FoundPiece> found = GetFrom(0, key);
    if (found.ok()) return found;
  }
  if (write_behind_.IsForgotten(key)) return absl::NotFoundError("erased");
  for (size_t tier = 1; tier < tiers_.size(); ++tier) {
    absl::StatusOr<FoundPiece> found = GetFrom(tier, key);
    if (found.ok()) return Promote(key, *found);
  }
  return absl::NotFoundError("a miss in every tier");
}

absl::StatusOr<FoundPiece> ChunkStore::Promote(const ChunkKey& key, const FoundPiece& found) {
  const ReadHandle& below = found.handle;
  absl::StatusOr<WriteHandle> room = tiers_[0]->Allocate(key, below.shape(), below.tenant());
  if (absl::IsAlreadyExists(room.status())) return GetFrom(0, key);
  RETURN_IF_ERROR(room.status());
  FillFrom(below, &*room);
  if (!promotion_->Promote(key)) return FoundPiece{std::move(*room).KeepPrivate(), found.tier};
  absl::ReleasableMutexLock lock(&erase_mutex_);
  // Who asked before the erase may have it, but nobody else.
  if (loader_.IsForgotten(key)) return FoundPiece{std::move(*room).KeepPrivate(), found.tier};
  absl::StatusOr<ReadHandle> promoted = tiers_[0]->Commit(*std::move(room));
  lock.Release();
  if (absl::IsAlreadyExists(promoted.status())) return GetFrom(0, key);
  RETURN_IF_ERROR(promoted.status());
  if (events_ != nullptr) events_->Added(key, names_[0]);
  return FoundPiece{*std::move(promoted), found.tier};
}

absl::StatusOr<WriteHandle> ChunkStore::Allocate(const ChunkKey& key, PieceShape shape,
                                                 const Tenant& tenant) {
  if (tiers_.size() > 1 && Find(key)) return absl::AlreadyExistsError("already stored");
  return tiers_[0]->Allocate(key, shape, tenant);
}

absl::Status ChunkStore::Commit(WriteHandle handle) {
  const ChunkKey key = handle.key();
  ASSIGN_OR_RETURN(const ReadHandle committed, tiers_[0]->Commit(std::move(handle)));
  if (events_ != nullptr) events_->Added(key, names_[0]);
  WriteDownIfAdmitted(key, committed, false);
  return absl::OkStatus();
}

void ChunkStore::WriteDownIfAdmitted(const ChunkKey& key, const ReadHandle& handle, bool pinned) {
  if (tiers_.size() == 1) return;
  // The policy is asked in any case: it counts sightings.
  const bool admitted = admission_->Admit(key);
  if ((!admitted && !pinned) || IsBelow(key)) return;
  write_behind_.Push(key, handle.Share());
  // The handle keeps the entry from eviction: if it is gone, it was erased, perhaps before the
  // push.
  if (!tiers_[0]->Find(key)) write_behind_.Forget(key);
}

// What is in memory may be on its way down, and what is below on its way up. From memory down, and
// memory once more: a write is forgotten before the lower tiers are erased, and so are the loads
// that read the key before it was erased there. Under the mutex such a load has either committed
// the key already, and it is erased, or it will see that it must not.
bool ChunkStore::Erase(const ChunkKey& key) {
  pins_.Unpin(key);
  const bool found = Find(key).has_value();
  EraseFrom(0, key);
  if (tiers_.size() == 1) return found;
  write_behind_.Forget(key);
  for (size_t tier = 1; tier < tiers_.size(); ++tier) EraseFrom(tier, key);
  absl::MutexLock lock(&erase_mutex_);
  loader_.Forget(key);
  EraseFrom(0, key);
  return found;
}

void ChunkStore::EraseFrom(size_t tier, const ChunkKey& key) {
  const absl::Status status = tiers_[tier]->Erase(key);
  if (status.ok()) return;
  tier_errors_.fetch_add(1, std::memory_order_relaxed);
  LOG_EVENT_LIMITED(kWarning, "erase_failed")
      .With("tier", names_[tier])
      .With("key", key.ToHex())
      .WithError(status);
}

absl::Status ChunkStore::Pin(const ChunkKey& key, absl::Duration ttl) {
  RETURN_IF_ERROR(pins_.CheckTtl(ttl));
  ASSIGN_OR_RETURN(FoundPiece found, Get(key));
  WriteDownIfAdmitted(key, found.handle, true);
  return pins_.Pin(key, std::move(found.handle), ttl);
}

absl::StatusOr<std::vector<ChunkKey>> ChunkStore::Flush(absl::Span<const ChunkKey> keys) {
  if (tiers_.size() == 1) return absl::FailedPreconditionError("there is no disk tier");
  for (const ChunkKey& key : keys) {
    const auto found = GetFast(key);
    if (!found.ok()) continue;
    // Waits for room: who asks for durability would rather wait than be dropped.
    if (!write_behind_.Push(key, found->handle.Share())) {
      write_behind_.WaitUntilWritten();
      write_behind_.Push(key, found->handle.Share());
    }
  }
  write_behind_.WaitUntilWritten();
  // What is down there now is covered by the flush; what comes later is not.
  absl::flat_hash_set<ChunkKey> written;
  for (const ChunkKey& key : keys) {
    if (IsBelow(key)) written.insert(key);
  }
  RETURN_IF_ERROR(write_behind_.Flush());
  std::vector<ChunkKey> not_durable;
  for (const ChunkKey& key : keys) {
    if (!written.contains(key) || !IsBelow(key)) not_durable.push_back(key);
  }
  return not_durable;
}

bool ChunkStore::IsBelow(const ChunkKey& key) {
  for (size_t tier = 1; tier < tiers_.size(); ++tier) {
    if (tiers_[tier]->Find(key)) return true;
  }
  return false;
}

void ChunkStore::WaitForWriteDowns() { write_behind_.WaitUntilWritten(); }

std::vector<TierStats> ChunkStore::Stats() const {
  std::vector<TierStats> stats;
  for (const auto& tier : tiers_) stats.push_back(tier->Stats());
  return stats;
}

void ChunkStore::CountLookup(size_t tier, uint64_t bytes) {
  lookups_[tier].pieces.fetch_add(1, std::memory_order_relaxed);
  lookups_[tier].bytes.fetch_add(bytes, std::memory_order_relaxed);
}

StoreCounters ChunkStore::counters() const {
  std::vector<LookupCounters> lookups;
  for (size_t tier = 0; tier < lookups_.size(); ++tier) {
    lookups.push_back({.tier = tier < names_.size() ? names_[tier] : "",
                       .pieces = lookups_[tier].pieces.load(std::memory_order_relaxed),
                       .bytes = lookups_[tier].bytes.load(std::memory_order_relaxed)});
  }
  return {.lookups = std::move(lookups),
          .tier_errors = tier_errors_.load(std::memory_order_relaxed),
          .loads = loader_.counters(),
          .writes = write_behind_.counters()};
}

}  // namespace tessera
