#include "cache_server/store/promotion_policy.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "cache_server/store/seen_keys.h"
#include "glog/logging.h"

namespace tessera {
namespace {

constexpr size_t kRememberedKeys = size_t{1} << 16;

class PromoteAlways : public PromotionPolicy {
 public:
  bool Promote(const ChunkKey&) override { return true; }
};

class PromoteSecondRead : public PromotionPolicy {
 public:
  bool Promote(const ChunkKey& key) override { return seen_.Saw(key); }

 private:
  SeenKeys seen_{kRememberedKeys};
};

class PromoteNever : public PromotionPolicy {
 public:
  bool Promote(const ChunkKey&) override { return false; }
};

}  // namespace

absl::StatusOr<PromotionKind> ParsePromotionKind(std::string_view name) {
  if (name == "always") return PromotionKind::kAlways;
  if (name == "second_read") return PromotionKind::kSecondRead;
  if (name == "never") return PromotionKind::kNever;
  return absl::InvalidArgumentError(
      absl::StrCat("promotion is always, second_read or never, not '", std::string(name), "'"));
}

std::unique_ptr<PromotionPolicy> MakePromotionPolicy(PromotionKind kind) {
  switch (kind) {
    case PromotionKind::kAlways:
      return std::make_unique<PromoteAlways>();
    case PromotionKind::kSecondRead:
      return std::make_unique<PromoteSecondRead>();
    case PromotionKind::kNever:
      return std::make_unique<PromoteNever>();
  }
  LOG(FATAL) << "unknown promotion";
}

}  // namespace tessera
