// The cache server, as the chunk API sees it.
#ifndef TESSERA_GATEWAY_CHUNKS_CACHE_CALLS_H_
#define TESSERA_GATEWAY_CHUNKS_CACHE_CALLS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/kv_cache.pb.h"

namespace tessera {

struct CacheCallsOptions {
  // "host:port" or "unix:/path".
  std::string address;
  // TLS: file of the certificates to trust, PEM; empty: no TLS. With it, the own certificate and
  // key for a server that wants one; both or none.
  std::string ca_file;
  std::string cert_file;
  std::string key_file;
  // File whose first line is the token that the server wants; empty: none.
  std::string token_file;
  // For one call; and for those that may wait for a disk (Pin, Flush).
  absl::Duration deadline = absl::Seconds(1);
  absl::Duration slow_deadline = absl::Seconds(30);
};

// Every call waits for its answer, for its deadline at most, so none may come from a network
// thread. Keys are 32 bytes each, any number of them. Thread-safe.
//
// Errors of all: UNAVAILABLE (down, late, busy, or it does not accept us), INVALID_ARGUMENT (what
// the server refuses, in its words); their messages name no address, which only the log does.
class CacheCalls {
 public:
  using Keys = std::vector<std::string>;

  // Largest value that Fetch accepts; a larger one is a miss.
  static constexpr uint64_t kMaxValueBytes = uint64_t{32} << 20;

  virtual ~CacheCalls() = default;

  // Connects at the first call. INVALID_ARGUMENT: no address, a file that cannot be read.
  static absl::StatusOr<std::unique_ptr<CacheCalls>> Make(const CacheCallsOptions& options);

  // OK when the server answers.
  virtual absl::Status Ping() = 0;

  // How it stands, within `deadline` instead of the options'.
  virtual absl::StatusOr<cache::v1::StatsResponse> Stats(absl::Duration deadline) = 0;

  // Stores bytes as a piece of one layer; false: the key was there already and is left as it is.
  // Also RESOURCE_EXHAUSTED (no room).
  virtual absl::StatusOr<bool> Store(const std::string& key, const std::string& tenant,
                                     const std::string& value) = 0;

  // What Store stored, in the order of the keys; nothing for a key that is not there, not of one
  // layer, too large, or whose bytes do not match their checksum.
  virtual absl::StatusOr<std::vector<std::optional<std::string>>> Fetch(const Keys& keys) = 0;

  // Those of the keys that are not there.
  virtual absl::StatusOr<Keys> FindMissing(const Keys& keys) = 0;

  // Counts of all keys.
  virtual absl::StatusOr<cache::v1::PinResponse> Pin(const Keys& keys, absl::Duration ttl) = 0;
  virtual absl::Status Unpin(const Keys& keys) = 0;

  // Returns how many were there.
  virtual absl::StatusOr<uint32_t> Delete(const Keys& keys) = 0;

  // Returns how many of the keys are not durable now: all of them, when the server has no disk.
  virtual absl::StatusOr<size_t> Flush(const Keys& keys) = 0;

  // A page of that tenant's entries, oldest first, from that token on.
  virtual absl::StatusOr<cache::v1::ListResponse> List(const std::string& tenant, uint32_t size,
                                                       const std::string& token) = 0;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_CHUNKS_CACHE_CALLS_H_
