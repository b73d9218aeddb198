// Which pieces a RocksDB tier has, what they take, and which go when there is no room. In memory.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_INDEX_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_INDEX_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cache_server/tier/eviction_policy.h"
#include "cache_server/tier/rocksdb_database.h"
#include "cache_server/tier/tier.h"
#include "cache_server/tier/value_header.h"

namespace tessera {

struct PieceIndexOptions {
  EvictionKind eviction = EvictionKind::kLru;
  uint64_t limit_bytes = 0;   // for all pieces and reservations
  uint64_t tenant_bytes = 0;  // for those of one tenant; 0: no limit
  EvictionListener on_evicted;
};

// Not thread-safe: the tier has it under its lock. Pieces that leave are also put on a list, for
// the tier to erase them from the disk before it next writes.
class PieceIndex {
 public:
  struct Entry {
    PieceShape shape;
    Tenant tenant;
    absl::Time added;
    absl::Time used;
    // No two entries have the same, so one that is found twice with the same was there in between.
    uint64_t generation = 0;
  };

  explicit PieceIndex(const PieceIndexOptions& options);

  // Null if it is not there; valid until the next call that is not const.
  const Entry* Find(const ChunkKey& key) const;
  // Find, and tells the eviction policy of the use.
  const Entry* Use(const ChunkKey& key, absl::Time now);

  // A new entry; the key must not be there. Does not look at the limits.
  void Add(const PieceRecord& piece);
  // False: it is not there.
  bool Remove(const ChunkKey& key, EvictionReason reason);

  // Sets `bytes` aside for a piece of `tenant`, evicting what must go. RESOURCE_EXHAUSTED when that
  // cannot be enough; then nothing is evicted for it.
  absl::Status Reserve(uint64_t bytes, const Tenant& tenant);
  void Release(uint64_t bytes, const Tenant& tenant);
  // Evicts until no more than `bytes` are used, as far as reservations allow.
  void EvictDownTo(uint64_t bytes);

  // What is to be erased from the disk since the last call. Put it back if that fails.
  std::vector<ErasedPiece> TakeErased();
  void PutBackErased(std::vector<ErasedPiece> erased);

  const absl::flat_hash_map<ChunkKey, Entry>& entries() const { return entries_; }
  uint64_t limit_bytes() const { return options_.limit_bytes; }
  uint64_t used_bytes() const { return used_; }  // entries and reservations
  const std::array<uint64_t, kEvictionReasons>& evictions() const { return evictions_; }

 private:
  // Kept with a quota only, and as long as the tenant has bytes.
  struct TenantState {
    uint64_t used = 0;
    uint64_t reserved = 0;                     // of it
    std::unique_ptr<EvictionPolicy> eviction;  // over the tenant's own entries
  };

  // Null without a quota.
  TenantState* FindTenant(const Tenant& tenant);
  TenantState* AddTenant(const Tenant& tenant);
  void ForgetTenantIfEmpty(const Tenant& tenant);
  bool EvictNext(EvictionPolicy* policy, EvictionReason reason);

  const PieceIndexOptions options_;
  const std::unique_ptr<EvictionPolicy> eviction_;
  absl::flat_hash_map<ChunkKey, Entry> entries_;
  absl::flat_hash_map<Tenant, TenantState> tenants_;
  std::vector<ErasedPiece> erased_;
  uint64_t used_ = 0;
  uint64_t reserved_ = 0;  // of it
  uint64_t last_generation_ = 0;
  std::array<uint64_t, kEvictionReasons> evictions_ = {};
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_INDEX_H_
