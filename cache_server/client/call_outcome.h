// What the calls of one client share: counters and the circuit breaker.
#ifndef TESSERA_CACHE_SERVER_CLIENT_CALL_OUTCOME_H_
#define TESSERA_CACHE_SERVER_CLIENT_CALL_OUTCOME_H_

#include <atomic>
#include <cstdint>

#include "absl/time/clock.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/client/circuit_breaker.h"

namespace tessera {

// Thread-safe.
class CallOutcomes {
 public:
  explicit CallOutcomes(const CircuitBreakerOptions& options) : breaker_(options) {}

  // Whether to try a call; counts a skipped one.
  bool Allow() {
    const bool allowed = breaker_.Allow(absl::Now());
    if (!allowed) skipped_calls_.fetch_add(1, std::memory_order_relaxed);
    return allowed;
  }

  void FetchSucceeded() { breaker_.RecordSuccess(); }
  void FetchFailed() {
    failed_fetches_.fetch_add(1, std::memory_order_relaxed);
    breaker_.RecordFailure(absl::Now());
  }
  void StoreSucceeded(uint64_t bytes) {
    stored_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    breaker_.RecordSuccess();
  }
  void StoreFailed() {
    failed_stores_.fetch_add(1, std::memory_order_relaxed);
    breaker_.RecordFailure(absl::Now());
  }
  void Fetched(uint64_t bytes) { fetched_bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  // A fetch over shared memory that broke: says nothing about the server's other face.
  void ShmFetchFailed() { failed_fetches_.fetch_add(1, std::memory_order_relaxed); }
  void ShmRead(uint64_t bytes) {
    Fetched(bytes);
    shm_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  }
  void ShmStored(uint64_t bytes) {
    stored_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    shm_stored_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  }
  void ShmFellBack() { shm_fallbacks_.fetch_add(1, std::memory_order_relaxed); }
  void LeaseLost() { lost_leases_.fetch_add(1, std::memory_order_relaxed); }
  void ChecksumFailed() { checksum_failures_.fetch_add(1, std::memory_order_relaxed); }

  ClientCounters counters() const {
    return {.fetched_bytes = fetched_bytes_.load(std::memory_order_relaxed),
            .stored_bytes = stored_bytes_.load(std::memory_order_relaxed),
            .failed_fetches = failed_fetches_.load(std::memory_order_relaxed),
            .failed_stores = failed_stores_.load(std::memory_order_relaxed),
            .checksum_failures = checksum_failures_.load(std::memory_order_relaxed),
            .skipped_calls = skipped_calls_.load(std::memory_order_relaxed),
            .shm_bytes = shm_bytes_.load(std::memory_order_relaxed),
            .shm_stored_bytes = shm_stored_bytes_.load(std::memory_order_relaxed),
            .shm_fallbacks = shm_fallbacks_.load(std::memory_order_relaxed),
            .lost_leases = lost_leases_.load(std::memory_order_relaxed)};
  }

 private:
  CircuitBreaker breaker_;
  std::atomic<uint64_t> fetched_bytes_{0};
  std::atomic<uint64_t> stored_bytes_{0};
  std::atomic<uint64_t> failed_fetches_{0};
  std::atomic<uint64_t> failed_stores_{0};
  std::atomic<uint64_t> checksum_failures_{0};
  std::atomic<uint64_t> skipped_calls_{0};
  std::atomic<uint64_t> shm_bytes_{0};
  std::atomic<uint64_t> shm_stored_bytes_{0};
  std::atomic<uint64_t> shm_fallbacks_{0};
  std::atomic<uint64_t> lost_leases_{0};
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_CALL_OUTCOME_H_
