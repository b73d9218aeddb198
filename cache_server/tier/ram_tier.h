// A tier in memory that this machine's other processes may map (chunk/shared_memory.h).
#ifndef TESSERA_CACHE_SERVER_TIER_RAM_TIER_H_
#define TESSERA_CACHE_SERVER_TIER_RAM_TIER_H_

#include <cstdint>
#include <memory>

#include "cache_server/chunk/shared_memory.h"
#include "cache_server/tier/eviction_policy.h"
#include "cache_server/tier/tier.h"

namespace tessera {

struct RamTierOptions {
  EvictionKind eviction = EvictionKind::kLru;
  // Evicts so that entries use at most this share of the memory; what is above it is for pinned and
  // unfinished pieces, which may use all of it. 0 < evict_from <= 1.
  double evict_from = 0.9;
  // Most bytes of one tenant; past it, that tenant's own entries go first. 0: no limit.
  uint64_t tenant_bytes = 0;
  EvictionListener on_evicted = nullptr;  // may be empty
};

// A piece is one unbroken stretch of the memory: its slices one after the other from the handle's
// slice(0) on, then its checksums. It takes whole pages of 4 KiB. The memory's size is the hard
// limit for the bytes of pieces, pinned and unfinished ones included.
std::unique_ptr<Tier> MakeRamTier(std::shared_ptr<SharedMemory> memory,
                                  const RamTierOptions& options);

// Bytes of the memory that a piece takes there.
uint64_t RamTierBytes(PieceShape shape);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_RAM_TIER_H_
