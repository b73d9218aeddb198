// The client that reads the memory of a server on the same machine, with gRPC behind it.
#ifndef TESSERA_CACHE_SERVER_CLIENT_SHM_CACHE_CLIENT_H_
#define TESSERA_CACHE_SERVER_CLIENT_SHM_CACHE_CLIENT_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/client/grpc_cache_client.h"
#include "cache_server/client/shm_link.h"

namespace tessera {

struct ShmCacheClientOptions {
  // How long the server may take to say where pieces are, before they are fetched over gRPC.
  absl::Duration acquire_timeout = absl::Milliseconds(250);
  // How long the first Store waits to learn whether there is shared memory. A Fetch never waits for
  // that: until it is known, fetches go over gRPC.
  absl::Duration ask_timeout = absl::Seconds(2);
  ShmLinkOptions link;
};

// Fetches and stores go over shared memory when the server offers it, and over `grpc` when not,
// when that fails, and when a call has more keys than shared memory takes at once, or pieces that
// are too large. `token` is what the server's shared memory wants to see; empty: nothing.
std::unique_ptr<CacheClient> MakeShmCacheClient(std::unique_ptr<GrpcCacheClient> grpc,
                                                std::string token,
                                                const ShmCacheClientOptions& options);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_SHM_CACHE_CLIENT_H_
