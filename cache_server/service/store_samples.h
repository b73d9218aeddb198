// What a cache server counts, as metrics: tiers, store, and the ways in and out.
#ifndef TESSERA_CACHE_SERVER_SERVICE_STORE_SAMPLES_H_
#define TESSERA_CACHE_SERVER_SERVICE_STORE_SAMPLES_H_

#include <memory>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "cache_server/service/shm_server.h"
#include "cache_server/service/transport_counters.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/metered_tier.h"

namespace tessera {

// Where the values come from.
struct StoreSources {
  const ChunkStore* store = nullptr;
  const TransportCounters* counters = nullptr;
  const ShmServer* shm = nullptr;  // may be null
  size_t open_fetches = 0;         // calls of the gRPC service, now
  size_t open_stores = 0;
};

// All values of now; those of one name follow each other.
std::vector<MetricSample> StoreSamples(const StoreSources& sources);

// Name and labels in one, as Prometheus writes them: name{label="value"}.
std::string SampleName(const MetricSample& sample);

// Puts the calls of the tier `name` into latency histograms of `metrics`, which must outlive it.
std::shared_ptr<TierObserver> MakeTierLatencies(const std::string& name, Metrics* metrics);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_STORE_SAMPLES_H_
