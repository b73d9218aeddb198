// The API keys that clients show, from a file.
//
// One key a line: `name key [requests_per_minute [tokens_per_minute]]`, separated by blanks; 0 or
// nothing is no limit. A name has 1 to 64 letters, digits and any of "-_."; a key 8 to 512
// printable ASCII characters without blanks. Empty lines and what follows a '#' at the start of a
// word are comments. The names appear in logs and metrics, the keys nowhere: only their digests are
// kept.
#ifndef TESSERA_GATEWAY_ACCESS_API_KEYS_H_
#define TESSERA_GATEWAY_ACCESS_API_KEYS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

struct KeyLimits {
  // A minute; 0: no limit. Both start full, so that as many may come at once.
  uint64_t requests = 0;
  uint64_t tokens = 0;
};

// Immutable; every call may come from any thread.
class ApiKeys {
 public:
  static constexpr size_t kMaxKeys = 4096;

  // Reads a file, and logs a warning when more than its owner may read it. INVALID_ARGUMENT: it
  // cannot be read, or as Parse.
  static absl::StatusOr<ApiKeys> Load(const std::string& path);

  // INVALID_ARGUMENT naming the line, never its key: a line of another form, a name or a key that
  // another line has, no key at all, or more than kMaxKeys.
  static absl::StatusOr<ApiKeys> Parse(std::string_view text);

  // Which key an Authorization header shows ("Bearer KEY"). Takes as long for a wrong one as for
  // any right one.
  std::optional<size_t> Find(std::string_view authorization) const;

  size_t size() const { return keys_.size(); }
  const std::string& name(size_t index) const { return keys_[index].name; }
  const KeyLimits& limits(size_t index) const { return keys_[index].limits; }

 private:
  using Digest = std::array<uint8_t, 32>;
  struct Key {
    std::string name;
    Digest digest;
    KeyLimits limits;
  };

  static Digest DigestOf(std::string_view key);
  absl::Status Add(const std::vector<std::string>& words);

  std::vector<Key> keys_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ACCESS_API_KEYS_H_
