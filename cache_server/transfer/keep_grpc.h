// gRPC's life time in this process.
#ifndef TESSERA_CACHE_SERVER_TRANSFER_KEEP_GRPC_H_
#define TESSERA_CACHE_SERVER_TRANSFER_KEEP_GRPC_H_

namespace tessera {

// Keeps the gRPC library up until the process ends. Without it the library is torn down when its
// last object goes, and then waits up to 10 s for threads of its own that are still ending (seen in
// one of ten runs with gRPC 1.51). Thread-safe; more calls do nothing.
void KeepGrpc();

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TRANSFER_KEEP_GRPC_H_
