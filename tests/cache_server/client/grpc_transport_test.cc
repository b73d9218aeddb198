#include "absl/strings/str_cat.h"
#include "tests/cache_server/client/transport_conformance.h"

namespace tessera::testing {
namespace {

struct OverTcp {
  static void Configure(SharedServer*) {}
  static constexpr bool kSharedMemory = false;
};
INSTANTIATE_TYPED_TEST_SUITE_P(GrpcOverTcp, TransportConformance, OverTcp);

struct OverUnixSocket {
  static void Configure(SharedServer* server) {
    server->grpc_options.listen = absl::StrCat("unix:", NewSocketPath());
  }
  static constexpr bool kSharedMemory = false;
};
INSTANTIATE_TYPED_TEST_SUITE_P(GrpcOverUnixSocket, TransportConformance, OverUnixSocket);

}  // namespace
}  // namespace tessera::testing
