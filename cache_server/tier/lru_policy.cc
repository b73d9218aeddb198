#include "cache_server/tier/lru_policy.h"

#include "glog/logging.h"

namespace tessera {

void LruPolicy::Add(const ChunkKey& key, uint64_t /*bytes*/) {
  recency_.push_front(key);
  CHECK(places_.try_emplace(key, recency_.begin()).second) << "added twice: " << key.ToHex();
}

void LruPolicy::Touch(const ChunkKey& key) {
  const auto found = places_.find(key);
  if (found != places_.end()) recency_.splice(recency_.begin(), recency_, found->second);
}

void LruPolicy::Remove(const ChunkKey& key) {
  const auto found = places_.find(key);
  if (found == places_.end()) return;
  recency_.erase(found->second);
  places_.erase(found);
}

std::optional<ChunkKey> LruPolicy::Evict(absl::FunctionRef<bool(const ChunkKey&)> may_evict) {
  for (auto oldest = recency_.rbegin(); oldest != recency_.rend(); ++oldest) {
    if (!may_evict(*oldest)) continue;
    const ChunkKey key = *oldest;
    Remove(key);
    return key;
  }
  return std::nullopt;
}

}  // namespace tessera
