// gRPC's own log lines, made part of ours.
#ifndef TESSERA_BASE_GRPC_LOG_H_
#define TESSERA_BASE_GRPC_LOG_H_

namespace tessera {

// From now on gRPC's messages are events of level debug: what they tell (a taken port, a peer that
// is gone) comes back as a status, and we log that once. Call before other threads use gRPC.
void QuietGrpc();

}  // namespace tessera

#endif  // TESSERA_BASE_GRPC_LOG_H_
