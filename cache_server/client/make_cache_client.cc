#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/client/channel.h"
#include "cache_server/client/grpc_cache_client.h"
#include "cache_server/client/shm_cache_client.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<CacheClient>> MakeCacheClient(const CacheAddress& address,
                                                             ReadMemory* read_memory) {
  ASSIGN_OR_RETURN(std::unique_ptr<GrpcCacheClient> grpc,
                   MakeGrpcCacheClient(address, {.read_memory = read_memory}));
  if (!address.shared_memory) return grpc;
  ASSIGN_OR_RETURN(std::string token, ReadToken(address));
  return MakeShmCacheClient(std::move(grpc), std::move(token),
                            {.link = {.read_memory = read_memory}});
}

}  // namespace tessera
