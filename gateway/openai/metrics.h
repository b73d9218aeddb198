// What the gateway counts, for GET /metrics.
//
// Names begin with tessera_; those that vLLM has too can be shown under its names as well, so that
// its dashboards work.
#ifndef TESSERA_GATEWAY_OPENAI_METRICS_H_
#define TESSERA_GATEWAY_OPENAI_METRICS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/metrics.h"
#include "gateway/openai/observer.h"
#include "gateway/openai/request_metrics.h"
#include "gateway/router/worker_pool.h"

namespace tessera::openai {

struct ApiMetricsOptions {
  const WorkerPool* workers = nullptr;
  // Requests that wait for a thread to prepare them.
  std::function<size_t()> waiting;
  // Also "vllm:..." where vLLM has the same thing.
  bool vllm_names = false;
};

// Thread-safe. Every series has the label model_name: of the model that was served when the request
// came; past kMaxModels of them the last one takes the rest.
class ApiMetrics final : public CompletionObserver {
 public:
  static constexpr size_t kMaxModels = 8;

  // `metrics` must outlive it and lose its sources before this object ends.
  ApiMetrics(Metrics* metrics, ApiMetricsOptions options);
  ~ApiMetrics() override;

  void OnAccepted() override;
  void OnNextToken(Endpoint endpoint, absl::Duration gap) override;
  void OnFinished(const CompletionReport& report) override;

  // `route` is one of a fixed set and lives as long as the process.
  void CountResponse(std::string_view route, int code);
  void CountRateLimited(const std::string& key_name);

  enum Histogram {
    kTtft,
    kInterToken,
    kTotal,
    kQueue,
    kPrefill,
    kDecode,
    kPromptTokens,
    kGenerationTokens,
    kHistograms
  };
  // What one model's requests added up to.
  struct Series;

 private:
  Series* SeriesOf(const std::string& model) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<MetricSample> Samples() const;
  void AddModelSamples(std::vector<MetricSample>* samples) const;
  void AddWorkerSamples(std::vector<MetricSample>* samples) const;
  void AddHttpSamples(std::vector<MetricSample>* samples) const;

  Metrics* const metrics_;
  const ApiMetricsOptions options_;
  RequestMetrics requests_;
  std::atomic<uint64_t> open_{0};
  // Of the model that was served last; never null.
  std::atomic<Series*> current_{nullptr};

  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Series>> series_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<std::string_view, int>, uint64_t> responses_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t> rate_limited_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_METRICS_H_
