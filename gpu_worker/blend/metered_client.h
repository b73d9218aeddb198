// A cache client that learns how fast the cache is.
#ifndef TESSERA_GPU_WORKER_BLEND_METERED_CLIENT_H_
#define TESSERA_GPU_WORKER_BLEND_METERED_CLIENT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "base/metrics.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/cost_model.h"

namespace tessera {

// Thread-safe. Passes everything on to another client, and times the waits for it.
class MeteredCacheClient final : public CacheClient {
 public:
  // Where the times go; null: nowhere. All must outlive the client.
  struct Listeners {
    CostModel* costs = nullptr;
    LatencyHistogram* lookups = nullptr;  // until the cache said what it has
    LatencyHistogram* fetches = nullptr;  // from then on, until the last byte that was waited for
  };

  MeteredCacheClient(CacheClient* real, const Listeners& listeners)
      : real_(*real), listeners_(listeners) {}

  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override;
  size_t Store(const std::vector<StoreSource>& sources, const CallOptions& options) override {
    return real_.Store(sources, options);
  }
  // Asked on threads of its own: nobody who computes waits for it.
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys,
                                const CallOptions& options) override {
    return real_.FindMissing(keys, options);
  }
  ClientCounters counters() const override { return real_.counters(); }

 private:
  class Stream;

  void AddWait(absl::Duration wait) {
    if (listeners_.costs != nullptr) listeners_.costs->AddWait(wait);
  }

  CacheClient& real_;
  const Listeners listeners_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_METERED_CLIENT_H_
