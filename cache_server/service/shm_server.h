// The cache server's face for clients of the same machine: they map the memory tier and read pieces
// where they lie, under leases. transfer/shm_wire.h has the protocol.
#ifndef TESSERA_CACHE_SERVER_SERVICE_SHM_SERVER_H_
#define TESSERA_CACHE_SERVER_SERVICE_SHM_SERVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_server/chunk/shared_memory.h"
#include "cache_server/store/chunk_store.h"

namespace tessera {

struct ShmServerOptions {
  // Socket file, made with mode 0600.
  std::string path;
  // What GetCapabilities says of this server; clients compare. At most 32 bytes.
  std::string instance_id;
  // Connections at a time, each with a thread. A client opens up to 8.
  size_t most_sessions = 64;
  // Leases at a time, over all sessions.
  uint32_t most_leases = 4096;
  // A lease that is not renewed ends after this time.
  absl::Duration lease = absl::Seconds(10);
  // At most kMostShmKeys are accepted, whatever stands here.
  size_t max_keys_per_call = 1024;
  uint64_t max_slice_bytes = uint64_t{64} << 20;
  // What a client must say first; empty: nothing.
  std::string token;
};

struct ShmCounters {
  uint64_t sessions = 0;  // now
  uint64_t leases = 0;    // now
  uint64_t expired_leases = 0;
  uint64_t served_bytes = 0;  // of pieces that were shown under a lease
  uint64_t put_bytes = 0;     // of pieces that were stored
  uint64_t found_pieces = 0;  // of the keys that clients asked for
  uint64_t missing_pieces = 0;
  uint64_t checksum_failures = 0;  // pieces that came damaged, and were not stored
  uint64_t refused = 0;       // connections: another user, a wrong token, or too many
};

// Thread-safe.
class ShmServer {
 public:
  // Starts to serve. `memory` is that of the store's first tier; pieces elsewhere are misses here.
  // `store` must outlive the server.
  // Errors: INVALID_ARGUMENT (an option), UNAVAILABLE (another server listens there),
  // FAILED_PRECONDITION (the path cannot be used), RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<ShmServer>> Start(const ShmServerOptions& options,
                                                          std::shared_ptr<SharedMemory> memory,
                                                          ChunkStore* store);

  // Ends all sessions, and with them all leases, and removes the socket file.
  virtual ~ShmServer() = default;

  // While draining, no lease is given and nothing is stored; what is held is not touched.
  virtual void SetDraining(bool draining) = 0;

  // False: some lease is still held at the deadline.
  virtual bool WaitForNoLeases(absl::Time deadline) const = 0;

  virtual ShmCounters counters() const = 0;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_SHM_SERVER_H_
