#include "cache_server/transfer/keep_grpc.h"

#include <grpc/grpc.h>

namespace tessera {

void KeepGrpc() {
  static const bool kept = (grpc_init(), true);
  (void)kept;
}

}  // namespace tessera
