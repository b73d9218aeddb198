#include "cache_server/store/admission_policy.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "cache_server/store/seen_keys.h"
#include "glog/logging.h"

namespace tessera {
namespace {

// Keys are 32 bytes: a quarter of a million of them, twice, are 20 MB at most.
constexpr size_t kRememberedKeys = size_t{1} << 18;

class AdmitAll : public AdmissionPolicy {
 public:
  bool Admit(const ChunkKey&) override { return true; }
};

class AdmitSecondSighting : public AdmissionPolicy {
 public:
  bool Admit(const ChunkKey& key) override { return seen_.Saw(key); }

 private:
  SeenKeys seen_{kRememberedKeys};
};

class AdmitPinned : public AdmissionPolicy {
 public:
  bool Admit(const ChunkKey&) override { return false; }
};

}  // namespace

absl::StatusOr<AdmissionKind> ParseAdmissionKind(std::string_view name) {
  if (name == "all") return AdmissionKind::kAll;
  if (name == "second_sighting") return AdmissionKind::kSecondSighting;
  if (name == "pinned") return AdmissionKind::kPinned;
  return absl::InvalidArgumentError(
      absl::StrCat("admission is all, second_sighting or pinned, not '", std::string(name), "'"));
}

std::unique_ptr<AdmissionPolicy> MakeAdmissionPolicy(AdmissionKind kind) {
  switch (kind) {
    case AdmissionKind::kAll:
      return std::make_unique<AdmitAll>();
    case AdmissionKind::kSecondSighting:
      return std::make_unique<AdmitSecondSighting>();
    case AdmissionKind::kPinned:
      return std::make_unique<AdmitPinned>();
  }
  LOG(FATAL) << "unknown admission";
}

}  // namespace tessera
