#include "cache_server/tier/rocksdb_index.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cache_server/tier/rocksdb_tier.h"
#include "glog/logging.h"

namespace tessera {

PieceIndex::PieceIndex(const PieceIndexOptions& options)
    : options_(options), eviction_(MakeEvictionPolicy(options.eviction, options.limit_bytes)) {}

const PieceIndex::Entry* PieceIndex::Find(const ChunkKey& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second;
}

const PieceIndex::Entry* PieceIndex::Use(const ChunkKey& key, absl::Time now) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return nullptr;
  found->second.used = now;
  eviction_->Touch(key);
  if (TenantState* state = FindTenant(found->second.tenant)) state->eviction->Touch(key);
  return &found->second;
}

void PieceIndex::Add(const PieceRecord& piece) {
  const auto [position, is_new] = entries_.try_emplace(piece.key);
  CHECK(is_new) << "a key twice in the index";
  position->second = {.shape = piece.shape,
                      .tenant = piece.tenant,
                      .added = piece.added,
                      .used = piece.added,
                      .generation = ++last_generation_};
  const uint64_t bytes = RocksdbTierBytes(piece.shape);
  used_ += bytes;
  eviction_->Add(piece.key, bytes);
  if (TenantState* state = AddTenant(piece.tenant)) {
    state->used += bytes;
    state->eviction->Add(piece.key, bytes);
  }
}

bool PieceIndex::Remove(const ChunkKey& key, EvictionReason reason) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return false;
  const Entry entry = found->second;
  const ChunkKey removed = key;  // `key` may lie in what is erased now
  entries_.erase(found);
  const uint64_t bytes = RocksdbTierBytes(entry.shape);
  used_ -= bytes;
  eviction_->Remove(removed);
  if (TenantState* state = FindTenant(entry.tenant)) {
    state->used -= bytes;
    state->eviction->Remove(removed);
    ForgetTenantIfEmpty(entry.tenant);
  }
  erased_.push_back({removed, entry.shape.layers});
  ++evictions_[static_cast<size_t>(reason)];
  if (options_.on_evicted) options_.on_evicted(removed, reason);
  return true;
}

absl::Status PieceIndex::Reserve(uint64_t bytes, const Tenant& tenant) {
  // Entries can all go, reservations cannot.
  if (bytes > options_.limit_bytes || reserved_ > options_.limit_bytes - bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no room on the disk for ", bytes, " bytes: ", used_, " of ",
                     options_.limit_bytes, " used, ", reserved_, " of them being written"));
  }
  if (options_.tenant_bytes > 0) {
    const TenantState* state = FindTenant(tenant);
    const uint64_t reserved = state == nullptr ? 0 : state->reserved;
    if (bytes > options_.tenant_bytes || reserved > options_.tenant_bytes - bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the tenant's quota of ", options_.tenant_bytes, " bytes has no room for ", bytes));
    }
  }
  if (TenantState* state = AddTenant(tenant)) {
    state->reserved += bytes;  // first: it keeps the state alive when the last entry goes
    state->used += bytes;
    while (state->used > options_.tenant_bytes) {
      CHECK(EvictNext(state->eviction.get(), EvictionReason::kTenantQuota));
    }
  }
  reserved_ += bytes;
  used_ += bytes;
  EvictDownTo(options_.limit_bytes);
  return absl::OkStatus();
}

void PieceIndex::Release(uint64_t bytes, const Tenant& tenant) {
  reserved_ -= bytes;
  used_ -= bytes;
  if (TenantState* state = FindTenant(tenant)) {
    state->reserved -= bytes;
    state->used -= bytes;
    ForgetTenantIfEmpty(tenant);
  }
}

void PieceIndex::EvictDownTo(uint64_t bytes) {
  while (used_ > bytes && EvictNext(eviction_.get(), EvictionReason::kRoom)) {
  }
}

std::vector<ErasedPiece> PieceIndex::TakeErased() { return std::exchange(erased_, {}); }

void PieceIndex::PutBackErased(std::vector<ErasedPiece> erased) {
  if (erased_.empty()) {
    erased_ = std::move(erased);
  } else {
    erased_.insert(erased_.end(), erased.begin(), erased.end());
  }
}

PieceIndex::TenantState* PieceIndex::FindTenant(const Tenant& tenant) {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? nullptr : &found->second;
}

PieceIndex::TenantState* PieceIndex::AddTenant(const Tenant& tenant) {
  if (options_.tenant_bytes == 0) return nullptr;
  TenantState& state = tenants_[tenant];
  if (state.eviction == nullptr) {
    state.eviction = MakeEvictionPolicy(options_.eviction, options_.tenant_bytes);
  }
  return &state;
}

void PieceIndex::ForgetTenantIfEmpty(const Tenant& tenant) {
  const auto found = tenants_.find(tenant);
  if (found != tenants_.end() && found->second.used == 0) tenants_.erase(found);
}

bool PieceIndex::EvictNext(EvictionPolicy* policy, EvictionReason reason) {
  const std::optional<ChunkKey> victim = policy->Evict([](const ChunkKey&) { return true; });
  return victim.has_value() && Remove(*victim, reason);
}

}  // namespace tessera
