// Which pieces that were read from a lower tier stay in memory.
#ifndef TESSERA_CACHE_SERVER_STORE_PROMOTION_POLICY_H_
#define TESSERA_CACHE_SERVER_STORE_PROMOTION_POLICY_H_

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "cache_server/chunk/key.h"

namespace tessera {

enum class PromotionKind {
  kAlways,
  kSecondRead,  // a pass over many cold pieces pushes nothing out
  kNever,
};

// Thread-safe.
class PromotionPolicy {
 public:
  virtual ~PromotionPolicy() = default;

  // A piece was read from a lower tier. True: keep it in memory; else only its readers see it.
  virtual bool Promote(const ChunkKey& key) = 0;
};

// "always", "second_read" or "never". INVALID_ARGUMENT names them.
absl::StatusOr<PromotionKind> ParsePromotionKind(std::string_view name);

std::unique_ptr<PromotionPolicy> MakePromotionPolicy(PromotionKind kind);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_STORE_PROMOTION_POLICY_H_
