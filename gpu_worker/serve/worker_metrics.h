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
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/cost_model.h"
#include "gpu_worker/serve/engine.h"
#include "gpu_worker/serve/generation.h"
#include "gpu_worker/serve/vllm_names.h"

namespace tessera {

struct WorkerMetricsOptions {
  int64_t kv_bytes_per_token = 0;  // as the cache stores it
  bool has_cache = false;          // a cache server is asked
  // The served model, for metrics under vLLM's names; empty: there are none.
  std::string vllm_model;
};

// Thread-safe.
class WorkerMetrics {
 public:
  // Adds further samples of a scrape.
  using Source = std::function<void(MetricSamples* samples)>;

  // `metrics` must outlive it, and lose its sources before this object ends.
  explicit WorkerMetrics(Metrics* metrics, WorkerMetricsOptions options = {});

  // For a part of the worker that counts by itself; what it reads must live until the metrics lose
  // their sources.
  void AddSource(Source source);

  // In place of `listener`: tells it everything, and counts. `generation` is the one that will own
  // it.
  std::unique_ptr<GenerationListener> Metered(std::unique_ptr<GenerationListener> listener,
                                              const Generation* generation);
  // A request that the engine never heard of or did not take.
  void CountRefused(const absl::Status& status);

  // What is counted here under vLLM's names, beside what the engine says; nothing without a
  // vllm_model. For Metrics::AddSource.
  std::vector<MetricSample> VllmSamples(const EngineStats& stats) const;

  // What the self-test found; kl: nats, meaningless if it did not come so far.
  void SetSelfTest(bool passed, double kl);

 private:
  class Listener;
  static constexpr size_t kMostTiers = 8;

  using ByTier = std::map<std::string, uint64_t>;

  void CountEnd(const absl::Status& status);
  void CountRequest(absl::StatusCode code, const FinishedRequest& request, bool prefilled);
  void CountPrefill(const Prefilled& prefilled, bool prefixes, absl::Duration queued,
                    absl::Duration prefill);
  void CountCost(const Prefilled& prefilled);
  void CountTiers(const Prefilled& prefilled);
  static void AddToTier(const std::string& tier, uint64_t count, ByTier* tiers);
  ValueHistogram* WholeRequests(absl::StatusCode code) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<MetricSample> Samples() const;
  void AddRequests(MetricSamples* samples) const;
  void AddPrompts(MetricSamples* samples) const;
  void AddLookups(MetricSamples* samples) const;
  void AddDecisions(MetricSamples* samples) const;

  Metrics& metrics_;
  const WorkerMetricsOptions options_;
  std::unique_ptr<VllmNames> vllm_;  // null: not wanted
  // Histograms live in `metrics`.
  LatencyHistogram* queue_;
  LatencyHistogram* blend_;  // prefill seconds
  LatencyHistogram* exact_prefill_;
  LatencyHistogram* off_;
  LatencyHistogram* first_token_;
  LatencyHistogram* between_tokens_;
  ValueHistogram* decode_;
  ValueHistogram* request_prompt_tokens_;
  ValueHistogram* request_generated_tokens_;
  std::array<ValueHistogram*, kPrefillKinds> cost_error_;

  std::atomic<uint64_t> generated_ = 0;
  std::atomic<uint64_t> stopped_ = 0;  // answers that ended by an end token
  std::atomic<uint64_t> full_length_ = 0;
  std::atomic<uint64_t> aborted_ = 0;  // answers that are not whole
  std::atomic<uint64_t> exact_ = 0, blended_ = 0, recomputed_ = 0, computed_ = 0;  // prompt tokens
  std::atomic<uint64_t> looked_up_ = 0;                                            // prompt tokens
  std::atomic<uint64_t> chose_blend_ = 0, chose_full_ = 0;
  std::atomic<uint64_t> pulled_ = 0, pull_declined_ = 0;                         // tokens
  std::array<std::atomic<double>, kPrefillKinds> predicted_ = {}, actual_ = {};  // seconds
  std::atomic<bool> self_test_passed_ = false;
  std::atomic<double> self_test_kl_ = 0;
  mutable absl::Mutex mutex_;
  std::map<absl::StatusCode, uint64_t> ends_ ABSL_GUARDED_BY(mutex_);
  std::map<absl::StatusCode, ValueHistogram*> whole_ ABSL_GUARDED_BY(mutex_);
  ByTier tiers_ ABSL_GUARDED_BY(mutex_);  // segments by tier; "": computed
  ByTier found_ ABSL_GUARDED_BY(mutex_);  // prompt tokens
  std::vector<Source> sources_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_WORKER_METRICS_H_
