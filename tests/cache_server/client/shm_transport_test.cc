#include "tests/cache_server/client/transport_conformance.h"

namespace tessera::testing {
namespace {

struct SharedMemoryTransport {
  static void Configure(SharedServer*) {}
  static constexpr bool kSharedMemory = true;
};
INSTANTIATE_TYPED_TEST_SUITE_P(Shm, TransportConformance, SharedMemoryTransport);

}  // namespace
}  // namespace tessera::testing
