// What the worker counts and measures, for Prometheus. All names begin with tessera_worker_.
#ifndef TESSERA_GPU_WORKER_SERVE_WORKER_METRICS_H_
#define TESSERA_GPU_WORKER_SERVE_WORKER_METRICS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/metric_samples.h"
#include "base/metrics.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/cost_model.h"
#include "gpu_worker/serve/engine.h"
#include "gpu_worker/serve/generation.h"

namespace tessera {

// Thread-safe.
class WorkerMetrics {
 public:
  // Adds further samples of a scrape.
  using Source = std::function<void(MetricSamples* samples)>;

  // `metrics` must outlive it, and lose its sources before this object ends.
  explicit WorkerMetrics(Metrics* metrics);

  // For a part of the worker that counts by itself; what it reads must live until the metrics lose
  // their sources.
  void AddSource(Source source);

  // In place of `listener`: tells it everything, and counts. `generation` is the one that will own
  // it.
  std::unique_ptr<GenerationListener> Metered(std::unique_ptr<GenerationListener> listener,
                                              const Generation* generation);
  // A request that the engine never heard of or did not take.
  void CountRefused(const absl::Status& status);

  // What the self-test found; kl: nats, meaningless if it did not come so far.
  void SetSelfTest(bool passed, double kl);

 private:
  class Listener;
  static constexpr size_t kMostTiers = 8;

  void CountEnd(const absl::Status& status);
  void CountPrefill(const Prefilled& prefilled, bool prefixes, absl::Duration queued,
                    absl::Duration prefill);
  void CountCost(const Prefilled& prefilled);
  void CountTier(const std::string& tier);
  std::vector<MetricSample> Samples() const;
  void AddRequests(MetricSamples* samples) const;
  void AddPrompts(MetricSamples* samples) const;

  // Histograms live in `metrics`.
  LatencyHistogram* queue_;
  LatencyHistogram* blend_;  // prefill seconds
  LatencyHistogram* exact_prefill_;
  LatencyHistogram* off_;
  LatencyHistogram* first_token_;
  LatencyHistogram* between_tokens_;
  std::array<ValueHistogram*, kPrefillKinds> cost_error_;

  std::atomic<uint64_t> generated_ = 0;
  std::atomic<uint64_t> stopped_ = 0;  // answers that ended by an end token
  std::atomic<uint64_t> full_length_ = 0;
  std::atomic<uint64_t> exact_ = 0, blended_ = 0, recomputed_ = 0, computed_ = 0;  // prompt tokens
  std::atomic<uint64_t> chose_blend_ = 0, chose_full_ = 0;
  std::atomic<bool> self_test_passed_ = false;
  std::atomic<double> self_test_kl_ = 0;
  mutable absl::Mutex mutex_;
  std::map<absl::StatusCode, uint64_t> ends_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t> tiers_ ABSL_GUARDED_BY(mutex_);  // segments by tier; "": computed
  std::vector<Source> sources_ ABSL_GUARDED_BY(mutex_);
};

// Samples of parts that count by themselves, for WorkerMetrics::AddSource.
void AddClientSamples(const ClientCounters& counters, MetricSamples* samples);
void AddEngineSamples(const EngineStats& stats, MetricSamples* samples);
void AddPoolSamples(const ChunkPoolStats& stats, MetricSamples* samples);
void AddCostSamples(const CostModel& costs, MetricSamples* samples);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_WORKER_METRICS_H_
