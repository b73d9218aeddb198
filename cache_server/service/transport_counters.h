// What the calls of the gRPC service count, for metrics.
#ifndef TESSERA_CACHE_SERVER_SERVICE_TRANSPORT_COUNTERS_H_
#define TESSERA_CACHE_SERVER_SERVICE_TRANSPORT_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace tessera {

// Thread-safe; each counts from the start.
struct TransportCounters {
  std::atomic<uint64_t> fetches{0};
  std::atomic<uint64_t> fetched_bytes{0};   // payload sent
  std::atomic<uint64_t> found_pieces{0};    // of the keys that fetches asked for
  std::atomic<uint64_t> missing_pieces{0};
  std::atomic<uint64_t> lost_pieces{0};     // announced, then taken back
  std::atomic<uint64_t> expired_leases{0};
  std::atomic<uint64_t> refused_fetches{0};
  std::atomic<uint64_t> stores{0};
  std::atomic<uint64_t> stored_bytes{0};    // payload of pieces that were committed
  std::atomic<uint64_t> stored_pieces{0};
  std::atomic<uint64_t> present_pieces{0};
  std::atomic<uint64_t> rejected_pieces{0};
  std::atomic<uint64_t> refused_stores{0};  // calls that ended with an error
  std::atomic<uint64_t> checksum_failures{0};  // slices that arrived damaged
  std::atomic<uint64_t> deleted_damaged{0};    // keys that a reader reported as damaged
  std::atomic<uint64_t> unauthenticated{0};
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_TRANSPORT_COUNTERS_H_
