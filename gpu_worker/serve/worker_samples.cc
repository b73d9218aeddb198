#include "gpu_worker/serve/worker_samples.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

namespace tessera {
namespace {

int64_t UsedBlocks(const EngineStats& stats) {
  return stats.kv_blocks - stats.free_blocks - stats.idle_blocks;
}

}  // namespace

double KvUsage(const EngineStats& stats) {
  if (stats.kv_blocks == 0) return 0;
  return static_cast<double>(UsedBlocks(stats)) / static_cast<double>(stats.kv_blocks);
}

void AddClientSamples(const ClientCounters& counters, MetricSamples* samples) {
  auto transports = [samples](const char* name, const char* help, uint64_t all, uint64_t shm) {
    samples->Counter(name, help, static_cast<double>(all - std::min(all, shm)),
                     {{"transport", "grpc"}});
    samples->Counter(name, help, static_cast<double>(shm), {{"transport", "shm"}});
  };
  transports("fetched_bytes", "Bytes of KV that came from the cache.", counters.fetched_bytes,
             counters.shm_bytes);
  transports("stored_bytes", "Bytes of KV that went to the cache.", counters.stored_bytes,
             counters.shm_stored_bytes);
  const std::tuple<const char*, const char*, uint64_t> columns[] = {
      {"failed_fetches", "Fetches that broke or could not begin.", counters.failed_fetches},
      {"failed_stores", "Stores that broke or could not begin.", counters.failed_stores},
      {"checksum_failures", "Slices that arrived damaged.", counters.checksum_failures},
      {"skipped_cache_calls", "Calls not tried, because the cache kept failing.",
       counters.skipped_calls},
      {"shm_fallbacks", "Calls that went over gRPC because shared memory failed.",
       counters.shm_fallbacks},
      {"lost_leases", "Fetches whose lease ended before they did.", counters.lost_leases}};
  for (const auto& [name, help, value] : columns) {
    samples->Counter(name, help, static_cast<double>(value));
  }
}

void AddEngineSamples(const EngineStats& stats, MetricSamples* samples) {
  samples->Gauge("requests_waiting", "Requests that wait to be prefilled.",
                 static_cast<double>(stats.waiting));
  samples->Gauge("requests_waiting_limit", "Requests that may wait; past it they are refused.",
                 static_cast<double>(stats.most_waiting));
  samples->Gauge("requests_running", "Requests that are prefilled or decoded.",
                 static_cast<double>(stats.running));
  samples->Counter("preemptions", "Times that a request gave its KV memory up to another.",
                   static_cast<double>(stats.preemptions));
  auto tokens = [samples](const char* name, const char* help, int64_t blocks) {
    samples->Gauge(name, help, static_cast<double>(blocks * KvPool::kBlockSlots));
  };
  tokens("kv_tokens", "Positions of KV memory.", stats.kv_blocks);
  tokens("kv_used_tokens", "Of these, held by requests.", UsedBlocks(stats));
  tokens("kv_idle_tokens", "Of these, prefixes that no request uses now.", stats.idle_blocks);
  samples->Gauge("kv_usage_ratio", "Share of the KV memory that requests hold, 0 to 1.",
                 KvUsage(stats));
}

void AddPoolSamples(const ChunkPoolStats& stats, MetricSamples* samples) {
  samples->Gauge("chunk_pool_bytes", "Chunks that are resident in the worker.",
                 static_cast<double>(stats.resident_bytes));
  samples->Gauge("chunk_pool_limit_bytes", "How much that may be.",
                 static_cast<double>(stats.limit_bytes));
  samples->Gauge("chunk_pool_chunks", "How many these are.",
                 static_cast<double>(stats.resident_chunks));
  const std::pair<const char*, uint64_t> outcomes[] = {
      {"resident", stats.hits}, {"joined", stats.joined}, {"missing", stats.misses}};
  for (const auto& [found, count] : outcomes) {
    samples->Counter("wanted_chunks", "Chunks that prompts wanted, by what the worker had of them.",
                     static_cast<double>(count), {{"found", found}});
  }
  samples->Counter("chunk_pool_evictions", "Chunks that are no longer resident.",
                   static_cast<double>(stats.evictions));
}

void AddCostSamples(const CostModel& costs, MetricSamples* samples) {
  samples->Gauge("cache_bytes_per_second", "How fast the cost model takes the cache to be.",
                 costs.fetch_bytes_per_second());
  for (size_t kind = 0; kind < kPrefillKinds; ++kind) {
    samples->Gauge("cost_factor", "What it has learned to multiply predictions with.",
                   costs.FactorOf(static_cast<PrefillKind>(kind)),
                   {{"kind", PrefillKindName(static_cast<PrefillKind>(kind))}});
  }
}

}  // namespace tessera
