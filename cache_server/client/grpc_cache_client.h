// Options of the client over gRPC, for those who need other than MakeGrpcCacheClient's defaults.
#ifndef TESSERA_CACHE_SERVER_CLIENT_GRPC_CACHE_CLIENT_H_
#define TESSERA_CACHE_SERVER_CLIENT_GRPC_CACHE_CLIENT_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/client/circuit_breaker.h"
#include "cache_server/transfer/slice_wire.h"

namespace tessera {

struct GrpcCacheClientOptions {
  // More keys than this go in several streams that run side by side. Every server accepts 256.
  size_t keys_per_call = 256;
  // How long WaitForHeader waits for the server's first word (a connection included) before the
  // fetch counts as failed. A fetch with a shorter timeout waits no longer than that.
  absl::Duration header_timeout = absl::Seconds(2);
  // Payload of one Store message, bytes.
  size_t part_bytes = kDefaultPartBytes;
  CircuitBreakerOptions breaker;
};

// As MakeGrpcCacheClient (cache_client.h), with options.
std::unique_ptr<CacheClient> MakeGrpcCacheClient(const std::string& address,
                                                 const GrpcCacheClientOptions& options);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_GRPC_CACHE_CLIENT_H_
