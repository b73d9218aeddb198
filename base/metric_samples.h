// Collects the samples of a MetricSource under a common prefix.
#ifndef TESSERA_BASE_METRIC_SAMPLES_H_
#define TESSERA_BASE_METRIC_SAMPLES_H_

#include <string>
#include <utility>
#include <vector>

#include "base/metrics.h"

namespace tessera {

// Samples of one name must be added one after the other. Not thread-safe.
class MetricSamples {
 public:
  // prefix: "tessera_cache_".
  explicit MetricSamples(std::string prefix) : prefix_(std::move(prefix)) {}

  void Gauge(const std::string& name, std::string help, double value, MetricLabels labels = {}) {
    samples_.push_back({prefix_ + name, std::move(help), false, std::move(labels), value});
  }
  // The name gets "_total".
  void Counter(const std::string& name, std::string help, double value, MetricLabels labels = {}) {
    samples_.push_back(
        {prefix_ + name + "_total", std::move(help), true, std::move(labels), value});
  }
  std::vector<MetricSample> Take() { return std::move(samples_); }

 private:
  const std::string prefix_;
  std::vector<MetricSample> samples_;
};

}  // namespace tessera

#endif  // TESSERA_BASE_METRIC_SAMPLES_H_
