// Which entry a full tier gives up: LRU or S3-FIFO, one object a tier.
#ifndef TESSERA_CACHE_SERVER_TIER_EVICTION_POLICY_H_
#define TESSERA_CACHE_SERVER_TIER_EVICTION_POLICY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "cache_server/chunk/key.h"

namespace tessera {

// Keeps an order over the keys of a tier's entries. Not thread-safe: the tier calls it under its
// own lock. Every key that is added leaves by Remove or by Evict.
class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // A new entry of `bytes` bytes. It must not be there already.
  virtual void Add(const ChunkKey& key, uint64_t bytes) = 0;

  // The entry was read.
  virtual void Touch(const ChunkKey& key) = 0;

  // The entry went otherwise than by Evict. Absent keys are no error.
  virtual void Remove(const ChunkKey& key) = 0;

  // Takes out the entry that should go first among those that `may_evict` allows; nothing when it
  // allows none. Calls `may_evict` at most once per entry.
  virtual std::optional<ChunkKey> Evict(absl::FunctionRef<bool(const ChunkKey&)> may_evict) = 0;
};

enum class EvictionKind {
  kLru,     // least recently used
  kS3Fifo,  // Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023
};

// "lru" or "s3fifo". INVALID_ARGUMENT names both.
absl::StatusOr<EvictionKind> ParseEvictionKind(std::string_view name);

// `capacity_bytes`: what the tier may hold, for policies that split it.
std::unique_ptr<EvictionPolicy> MakeEvictionPolicy(EvictionKind kind, uint64_t capacity_bytes);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_EVICTION_POLICY_H_
