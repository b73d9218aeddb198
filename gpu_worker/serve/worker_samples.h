// What parts of a worker count by themselves, as samples for WorkerMetrics::AddSource.
#ifndef TESSERA_GPU_WORKER_SERVE_WORKER_SAMPLES_H_
#define TESSERA_GPU_WORKER_SERVE_WORKER_SAMPLES_H_

#include "base/metric_samples.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/cost_model.h"
#include "gpu_worker/serve/engine.h"

namespace tessera {

// Share of the KV memory that requests hold, 0..1.
double KvUsage(const EngineStats& stats);

void AddClientSamples(const ClientCounters& counters, MetricSamples* samples);
void AddEngineSamples(const EngineStats& stats, MetricSamples* samples);
void AddPoolSamples(const ChunkPoolStats& stats, MetricSamples* samples);
void AddCostSamples(const CostModel& costs, MetricSamples* samples);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_WORKER_SAMPLES_H_
