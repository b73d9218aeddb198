// A tier in this process's memory.
#ifndef TESSERA_CACHE_SERVER_TIER_RAM_TIER_H_
#define TESSERA_CACHE_SERVER_TIER_RAM_TIER_H_

#include <cstdint>
#include <memory>

#include "cache_server/tier/tier.h"

namespace tessera {

struct RamTierOptions {
  // Hard limit for the bytes of pieces, pinned and unfinished ones included, each rounded up to
  // pages of 4 KiB. The index and the allocator's own needs come on top (under 1 % for pieces of 1
  // MiB and more).
  uint64_t capacity_bytes = uint64_t{4} << 30;
};

// Evicts the least recently used pieces that are not pinned.
std::unique_ptr<Tier> MakeRamTier(const RamTierOptions& options);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_RAM_TIER_H_
