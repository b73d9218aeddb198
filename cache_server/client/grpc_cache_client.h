// The client over gRPC alone, with options.
#ifndef TESSERA_CACHE_SERVER_CLIENT_GRPC_CACHE_CLIENT_H_
#define TESSERA_CACHE_SERVER_CLIENT_GRPC_CACHE_CLIENT_H_

#include <cstddef>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/client/call_outcome.h"
#include "cache_server/client/circuit_breaker.h"
#include "cache_server/client/shm_connection.h"
#include "cache_server/transfer/slice_wire.h"

namespace tessera {

struct GrpcCacheClientOptions {
  // More keys than this go in several streams that run side by side. Every server accepts 256.
  size_t keys_per_call = 256;
  // Connections for fetches, used in turn. One more each for stores and for small questions.
  size_t fetch_channels = 2;
  // How long WaitForHeader waits for the server's first word (a connection included) before the
  // fetch counts as failed. A fetch with a shorter timeout waits no longer than that.
  absl::Duration header_timeout = absl::Seconds(2);
  // Payload of one Store message, bytes.
  size_t part_bytes = kDefaultPartBytes;
  CircuitBreakerOptions breaker;
  ReadMemory* read_memory = nullptr;  // may be null; otherwise outlives the client
};

class GrpcCacheClient : public CacheClient {
 public:
  // Asks where the server's shared memory is to be had. `done` is called once, on any thread, at
  // the latest while the client is destroyed.
  virtual void AskForShm(std::function<void(absl::StatusOr<ShmAddress>)> done) = 0;

  // What its calls share, for who counts along.
  virtual const std::shared_ptr<CallOutcomes>& outcomes() const = 0;
};

// Uses no shared memory, whatever the address says. Errors as MakeCacheClient.
absl::StatusOr<std::unique_ptr<GrpcCacheClient>> MakeGrpcCacheClient(
    const CacheAddress& address, const GrpcCacheClientOptions& options);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_GRPC_CACHE_CLIENT_H_
