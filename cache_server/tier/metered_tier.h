// Counts what a tier does, whatever tier it is.
#ifndef TESSERA_CACHE_SERVER_TIER_METERED_TIER_H_
#define TESSERA_CACHE_SERVER_TIER_METERED_TIER_H_

#include <memory>

#include "cache_server/tier/tier.h"

namespace tessera {

// The same tier, whose Stats also say hits, misses, bytes and refusals. FindMissing counts nothing:
// a question is no use. Handles of `tier` are passed on as they are.
std::unique_ptr<Tier> MakeMeteredTier(std::unique_ptr<Tier> tier);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_METERED_TIER_H_
