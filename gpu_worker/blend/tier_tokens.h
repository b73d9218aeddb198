// Where tokens of a prompt were found.
#ifndef TESSERA_GPU_WORKER_BLEND_TIER_TOKENS_H_
#define TESSERA_GPU_WORKER_BLEND_TIER_TOKENS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

struct TierTokens {
  std::string tier;  // of the cache server, or kWorkerTier
  int64_t tokens = 0;
  friend bool operator==(const TierTokens&, const TierTokens&) = default;
};

// Behind the others; tokens of one tier that follow each other are one entry.
inline void AddTokens(const std::string& tier, int64_t tokens, std::vector<TierTokens>* found) {
  if (found->empty() || found->back().tier != tier) found->push_back({tier, 0});
  found->back().tokens += tokens;
}

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_TIER_TOKENS_H_
