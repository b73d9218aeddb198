#include "cache_server/tier/tier.h"

namespace tessera {

const char* EvictionReasonName(EvictionReason reason) {
  switch (reason) {
    case EvictionReason::kRoom:
      return "room";
    case EvictionReason::kNeighbours:
      return "neighbours";
    case EvictionReason::kTenantQuota:
      return "tenant_quota";
    case EvictionReason::kDamaged:
      return "damaged";
    case EvictionReason::kErased:
      return "erased";
  }
  return "unknown";
}

}  // namespace tessera
