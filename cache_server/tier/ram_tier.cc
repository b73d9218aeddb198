#include "cache_server/tier/ram_tier.h"

#include <array>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/tier/ram_piece.h"
#include "glog/logging.h"

namespace tessera {
namespace {

// How many of the policy's next victims are tried as the place for an unbroken stretch before all
// of the memory is searched.
constexpr int kWindowTries = 8;

ReadHandle MakeReadHandle(std::shared_ptr<const RamPin> pin) {
  const RamPiece& piece = *pin->piece();
  return ReadHandle(piece.shape(), piece.slices(), piece.checksums(), std::move(pin),
                    piece.tenant());
}

// Whether `bytes` more can never fit in `limit` while `pinned` bytes stay.
bool NeverFits(uint64_t bytes, uint64_t pinned, uint64_t limit) {
  return pinned > limit || bytes > limit - pinned;
}

// Invariants, under the mutex: every entry is in `index_`, in `eviction_`, and with a quota also in
// its tenant's order; or in none of them. `indexed` of its piece says which. Bytes are taken and
// pins are added under the mutex only; they are given back on any thread, under the arena's own
// lock, which is always the inner one.
class RamTier : public Tier {
 public:
  RamTier(std::shared_ptr<SharedMemory> memory, const RamTierOptions& options)
      : options_(options),
        space_(std::make_shared<RamSpace>(std::move(memory))),
        entry_limit_(
            static_cast<uint64_t>(static_cast<double>(space_->arena.size()) * options.evict_from)),
        eviction_(MakeEvictionPolicy(options.eviction, entry_limit_)) {}

  std::optional<PieceShape> Find(const ChunkKey& key) override {
    absl::MutexLock lock(&mutex_);
    const auto found = index_.find(key);
    if (found == index_.end()) return std::nullopt;
    return found->second.piece->shape();
  }

  absl::StatusOr<ReadHandle> Get(const ChunkKey& key) override;
  absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape,
                                       const Tenant& tenant) override;
  absl::StatusOr<ReadHandle> Commit(WriteHandle handle) override;

  absl::Status Erase(const ChunkKey& key) override {
    absl::MutexLock lock(&mutex_);
    if (index_.contains(key)) Leave(key, EvictionReason::kErased);
    return absl::OkStatus();
  }

  std::vector<TierEntry> List() const override;
  TierStats Stats() const override;

 private:
  struct Entry {
    std::shared_ptr<RamPiece> piece;
    absl::Time added;
    absl::Time used;
  };
  // Kept with a quota only, and as long as the tenant has bytes.
  struct TenantState {
    std::shared_ptr<RamUsage> usage;
    std::unique_ptr<EvictionPolicy> eviction;  // over the tenant's own entries
  };

  // Null without a quota. AddTenant alone makes and forgets states: it ends the life of pointers to
  // others.
  TenantState* FindTenant(const Tenant& tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  TenantState* AddTenant(const Tenant& tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Evicts until the tenant may have `bytes` more. `state` is null without a quota.
  absl::Status MakeQuota(uint64_t bytes, TenantState* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Evicts until entries keep to their limit with `bytes` more, as far as pins allow.
  void MakeRoom(uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives the piece its bytes, evicting neighbours if they lie in the way.
  bool Place(RamPiece* piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool EvictWindow(const std::optional<std::vector<Arena::Owner>>& window)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Evicts the policy's next victim; the start of the bytes that this freed, nothing if all are
  // pinned.
  std::optional<uint64_t> EvictNext(EvictionPolicy* policy, EvictionReason reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes out an entry that is there.
  void Leave(const ChunkKey& key, EvictionReason reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Status NoRoom(uint64_t bytes) const;

  const RamTierOptions options_;
  const std::shared_ptr<RamSpace> space_;
  const uint64_t entry_limit_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<ChunkKey, Entry> index_ ABSL_GUARDED_BY(mutex_);
  const std::unique_ptr<EvictionPolicy> eviction_ ABSL_PT_GUARDED_BY(mutex_);
  absl::flat_hash_map<Tenant, TenantState> tenants_ ABSL_GUARDED_BY(mutex_);
  size_t tenants_to_forget_at_ ABSL_GUARDED_BY(mutex_) = 64;
  std::array<uint64_t, kEvictionReasons> evictions_ ABSL_GUARDED_BY(mutex_) = {};
};

absl::StatusOr<ReadHandle> RamTier::Get(const ChunkKey& key) {
  const absl::Time now = absl::Now();
  absl::MutexLock lock(&mutex_);
  const auto found = index_.find(key);
  if (found == index_.end()) return absl::NotFoundError("not in RAM");
  Entry& entry = found->second;
  entry.used = now;
  eviction_->Touch(key);
  if (TenantState* state = FindTenant(entry.piece->tenant())) state->eviction->Touch(key);
  return MakeReadHandle(std::make_shared<const RamPin>(entry.piece));
}

absl::StatusOr<WriteHandle> RamTier::Allocate(const ChunkKey& key, PieceShape shape,
                                              const Tenant& tenant) {
  if (!IsValidShape(shape)) return absl::InvalidArgumentError("impossible sizes of a piece");
  const uint64_t bytes = RamTierBytes(shape);
  absl::MutexLock lock(&mutex_);
  if (index_.contains(key)) return absl::AlreadyExistsError("already in RAM");
  // Before anybody is evicted for it.
  if (NeverFits(bytes, space_->pinned, space_->arena.size())) return NoRoom(bytes);
  TenantState* state = AddTenant(tenant);
  RETURN_IF_ERROR(MakeQuota(bytes, state));
  MakeRoom(bytes);
  auto piece = std::make_shared<RamPiece>(space_, state == nullptr ? nullptr : state->usage, key,
                                          shape, tenant);
  if (!Place(piece.get())) return NoRoom(bytes);
  RamPiece& room = *piece;
  return WriteHandle(this, key, shape, room.slices(), room.checksums(),
                     std::make_shared<RamPin>(std::move(piece)), tenant);
}

absl::StatusOr<ReadHandle> RamTier::Commit(WriteHandle handle) {
  CHECK(handle.tier() == this) << "a handle of another tier";
  auto pin = std::static_pointer_cast<RamPin>(handle.room());
  const absl::Time now = absl::Now();
  absl::MutexLock lock(&mutex_);
  const auto [position, is_new] = index_.try_emplace(handle.key());
  if (!is_new) return absl::AlreadyExistsError("already in RAM");
  RamPiece& piece = *pin->piece();
  position->second = {pin->piece(), now, now};
  piece.indexed = true;
  eviction_->Add(piece.key(), piece.bytes());
  if (TenantState* state = FindTenant(piece.tenant())) {
    state->eviction->Add(piece.key(), piece.bytes());
  }
  return MakeReadHandle(std::move(pin));
}

RamTier::TenantState* RamTier::FindTenant(const Tenant& tenant) {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? nullptr : &found->second;
}

RamTier::TenantState* RamTier::AddTenant(const Tenant& tenant) {
  if (options_.tenant_bytes == 0) return nullptr;
  // Anybody may name new tenants; only those with bytes are worth remembering.
  if (tenants_.size() >= tenants_to_forget_at_) {
    absl::erase_if(tenants_, [](const auto& known) { return known.second.usage->used == 0; });
    tenants_to_forget_at_ = 2 * tenants_.size() + 64;
  }
  TenantState& state = tenants_[tenant];
  if (state.usage == nullptr) {
    state.usage = std::make_shared<RamUsage>();
    state.eviction = MakeEvictionPolicy(options_.eviction, options_.tenant_bytes);
  }
  return &state;
}

absl::Status RamTier::MakeQuota(uint64_t bytes, TenantState* state) {
  if (state == nullptr) return absl::OkStatus();
  const uint64_t quota = options_.tenant_bytes;
  bool fits = !NeverFits(bytes, state->usage->pinned, quota);
  while (fits && state->usage->used + bytes > quota) {
    fits = EvictNext(state->eviction.get(), EvictionReason::kTenantQuota).has_value();
  }
  if (fits) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the tenant's quota of ", quota, " bytes has no room for ", bytes, ": ",
                   state->usage->used.load(), " used, ", state->usage->pinned.load(), " pinned"));
}

void RamTier::MakeRoom(uint64_t bytes) {
  while (space_->arena.used() + bytes > entry_limit_ &&
         EvictNext(eviction_.get(), EvictionReason::kRoom).has_value()) {
  }
}

bool RamTier::Place(RamPiece* piece) {
  Arena& arena = space_->arena;
  if (piece->Place()) return true;
  const auto may_go = [](Arena::Owner owner) {
    const auto* neighbour = static_cast<const RamPiece*>(owner);
    return neighbour->indexed && !neighbour->pinned();
  };
  for (int i = 0; i < kWindowTries; ++i) {
    const std::optional<uint64_t> start = EvictNext(eviction_.get(), EvictionReason::kNeighbours);
    if (!start.has_value()) break;
    if (EvictWindow(arena.FindWindow(piece->bytes(), *start, may_go)) && piece->Place()) {
      return true;
    }
  }
  return EvictWindow(arena.FindWindowAnywhere(piece->bytes(), may_go)) && piece->Place();
}

bool RamTier::EvictWindow(const std::optional<std::vector<Arena::Owner>>& window) {
  if (!window.has_value()) return false;
  for (const Arena::Owner owner : *window) {
    const ChunkKey key = static_cast<const RamPiece*>(owner)->key();
    Leave(key, EvictionReason::kNeighbours);
  }
  return true;
}

std::optional<uint64_t> RamTier::EvictNext(EvictionPolicy* policy, EvictionReason reason) {
  const auto unpinned = [this](const ChunkKey& key) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return !index_.find(key)->second.piece->pinned();
  };
  const std::optional<ChunkKey> victim = policy->Evict(unpinned);
  if (!victim.has_value()) return std::nullopt;
  const uint64_t start = index_.find(*victim)->second.piece->start();
  Leave(*victim, reason);
  return start;
}

void RamTier::Leave(const ChunkKey& key, EvictionReason reason) {
  const auto found = index_.find(key);
  CHECK(found != index_.end());
  const std::shared_ptr<RamPiece> piece = std::move(found->second.piece);
  index_.erase(found);
  eviction_->Remove(piece->key());
  if (TenantState* state = FindTenant(piece->tenant())) state->eviction->Remove(piece->key());
  piece->indexed = false;
  // Now, even if a dropped pin has not yet let go of the piece: its bytes are wanted.
  if (!piece->pinned()) piece->Release();
  ++evictions_[static_cast<size_t>(reason)];
  if (options_.on_evicted) options_.on_evicted(piece->key(), reason);
}

absl::Status RamTier::NoRoom(uint64_t bytes) const {
  const Arena& arena = space_->arena;
  return absl::ResourceExhaustedError(absl::StrCat(
      "no room for ", bytes, " unbroken bytes in RAM: ", arena.used(), " of ", arena.size(),
      " used, ", space_->pinned.load(), " pinned, ", arena.largest_free(), " free in one stretch"));
}

std::vector<TierEntry> RamTier::List() const {
  std::vector<TierEntry> entries;
  absl::MutexLock lock(&mutex_);
  entries.reserve(index_.size());
  for (const auto& [key, entry] : index_) {
    entries.push_back({key, entry.piece->shape(), entry.piece->tenant(), entry.added, entry.used});
  }
  return entries;
}

TierStats RamTier::Stats() const {
  TierStats stats;
  stats.name = "ram";
  stats.capacity_bytes = space_->arena.size();
  stats.used_bytes = space_->arena.used();
  absl::MutexLock lock(&mutex_);
  stats.entries = index_.size();
  stats.evictions = evictions_;
  return stats;
}

}  // namespace

std::unique_ptr<Tier> MakeRamTier(std::shared_ptr<SharedMemory> memory,
                                  const RamTierOptions& options) {
  CHECK(memory != nullptr && memory->mutable_data() != nullptr) << "memory of another process";
  CHECK(options.evict_from > 0 && options.evict_from <= 1) << options.evict_from;
  return std::make_unique<RamTier>(std::move(memory), options);
}

}  // namespace tessera
