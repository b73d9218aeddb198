// Counts and times what a tier does, whatever tier it is.
#ifndef TESSERA_CACHE_SERVER_TIER_METERED_TIER_H_
#define TESSERA_CACHE_SERVER_TIER_METERED_TIER_H_

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "cache_server/tier/tier.h"

namespace tessera {

enum class TierCall : uint8_t { kGet, kAllocate, kCommit, kErase, kFlush };
inline constexpr int kTierCalls = 5;
// "get", "allocate", "commit", "erase", "flush".
const char* TierCallName(TierCall call);

// Told of every call when it has ended. Thread-safe and quick: it runs in the way of requests.
class TierObserver {
 public:
  virtual ~TierObserver() = default;

  // `ok` is false for any other status, a miss included. `bytes`: of the piece's slices; 0 for
  // kErase and kFlush, and when not ok.
  virtual void Observed(TierCall call, absl::Duration took, bool ok, uint64_t bytes) = 0;
};

// The same tier, whose Stats also say hits, misses, bytes and refusals. Find counts nothing: a
// question is no use. Handles of `tier` are passed on as they are. Without an observer no clock is
// read.
std::unique_ptr<Tier> MakeMeteredTier(std::unique_ptr<Tier> tier,
                                      std::shared_ptr<TierObserver> observer = nullptr);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_METERED_TIER_H_
