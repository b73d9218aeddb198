// A connection to a cache server, and what every call over it must carry. Includes gRPC: only for
// .cc files.
#ifndef TESSERA_CACHE_SERVER_CLIENT_CHANNEL_H_
#define TESSERA_CACHE_SERVER_CLIENT_CHANNEL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cache_server/client/cache_client.h"

namespace tessera {

// A channel with a connection of its own (none is made before the first call), encrypted when the
// address has a `ca_file`.
// INVALID_ARGUMENT: no address, a file that cannot be read, a certificate without its key or
// without `ca_file`.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const CacheAddress& address);

// The token in `token_file` (ReadTokenFile); empty when the address names none.
absl::StatusOr<std::string> ReadToken(const CacheAddress& address);

// Makes a call say which request it is for; an id that no header can carry is left out.
void AddRequestId(const std::string& request_id, grpc::ClientContext* context);

// Makes a call carry the token; without one the call is left as it is.
void AddToken(const std::string& token, grpc::ClientContext* context);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_CHANNEL_H_
