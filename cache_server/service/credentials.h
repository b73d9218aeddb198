// What a server shows its callers, and asks of them. Includes gRPC: only for service/'s .cc files.
#ifndef TESSERA_CACHE_SERVER_SERVICE_CREDENTIALS_H_
#define TESSERA_CACHE_SERVER_SERVICE_CREDENTIALS_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "absl/status/statusor.h"
#include "cache_server/service/server.h"

namespace tessera {

// TLS with the options' files, mTLS with a client CA, neither without files.
// INVALID_ARGUMENT: a file that cannot be read, a certificate without its key, a client CA without
// a certificate.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const ServerOptions& options);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_CREDENTIALS_H_
