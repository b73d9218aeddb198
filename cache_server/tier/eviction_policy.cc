#include "cache_server/tier/eviction_policy.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "cache_server/tier/lru_policy.h"
#include "cache_server/tier/s3_fifo_policy.h"

namespace tessera {

absl::StatusOr<EvictionKind> ParseEvictionKind(std::string_view name) {
  if (name == "lru") return EvictionKind::kLru;
  if (name == "s3fifo") return EvictionKind::kS3Fifo;
  return absl::InvalidArgumentError(
      absl::StrCat("unknown eviction policy '", std::string(name), "': it must be lru or s3fifo"));
}

std::unique_ptr<EvictionPolicy> MakeEvictionPolicy(EvictionKind kind, uint64_t capacity_bytes) {
  if (kind == EvictionKind::kS3Fifo) return std::make_unique<S3FifoPolicy>(capacity_bytes);
  return std::make_unique<LruPolicy>();
}

}  // namespace tessera
