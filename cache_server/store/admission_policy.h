// Which pieces are worth a write to the lower tiers.
#ifndef TESSERA_CACHE_SERVER_STORE_ADMISSION_POLICY_H_
#define TESSERA_CACHE_SERVER_STORE_ADMISSION_POLICY_H_

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "cache_server/chunk/key.h"

namespace tessera {

enum class AdmissionKind {
  kAll,             // everything that is stored
  kSecondSighting,  // what was stored or read twice: text that never comes back costs no write
  kPinned,          // only what is pinned
};

// Thread-safe. Pinned pieces and those that Flush names are written whatever it says.
class AdmissionPolicy {
 public:
  virtual ~AdmissionPolicy() = default;

  // A piece was stored, or read from memory. True: write it down now.
  virtual bool Admit(const ChunkKey& key) = 0;
};

// "all", "second_sighting" or "pinned". INVALID_ARGUMENT names them.
absl::StatusOr<AdmissionKind> ParseAdmissionKind(std::string_view name);

std::unique_ptr<AdmissionPolicy> MakeAdmissionPolicy(AdmissionKind kind);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_STORE_ADMISSION_POLICY_H_
