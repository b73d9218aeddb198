// gRPC's own log lines, made part of ours.
#ifndef TESSERA_CACHE_SERVER_SERVICE_QUIET_GRPC_H_
#define TESSERA_CACHE_SERVER_SERVICE_QUIET_GRPC_H_

namespace tessera {

// From now on gRPC's messages appear with --v=1 only: what they tell (a taken port, a peer that is
// gone) comes back as a status, and we log that once. Call before other threads use gRPC.
void QuietGrpc();

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_QUIET_GRPC_H_
