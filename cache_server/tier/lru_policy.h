// Least recently used first.
#ifndef TESSERA_CACHE_SERVER_TIER_LRU_POLICY_H_
#define TESSERA_CACHE_SERVER_TIER_LRU_POLICY_H_

#include <list>

#include "absl/container/flat_hash_map.h"
#include "cache_server/tier/eviction_policy.h"

namespace tessera {

class LruPolicy : public EvictionPolicy {
 public:
  void Add(const ChunkKey& key, uint64_t bytes) override;
  void Touch(const ChunkKey& key) override;
  void Remove(const ChunkKey& key) override;
  std::optional<ChunkKey> Evict(absl::FunctionRef<bool(const ChunkKey&)> may_evict) override;

 private:
  using Recency = std::list<ChunkKey>;

  // Every key is in both, or in neither.
  Recency recency_;  // most recent first
  absl::flat_hash_map<ChunkKey, Recency::iterator> places_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_LRU_POLICY_H_
