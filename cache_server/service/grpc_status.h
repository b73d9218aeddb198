// absl::Status as gRPC's. Includes gRPC: only for service/'s .cc files.
#ifndef TESSERA_CACHE_SERVER_SERVICE_GRPC_STATUS_H_
#define TESSERA_CACHE_SERVER_SERVICE_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace tessera {

// The codes are the same numbers.
inline grpc::Status ToGrpcStatus(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_GRPC_STATUS_H_
