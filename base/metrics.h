// Prometheus metrics of a process, over HTTP.
#ifndef TESSERA_BASE_METRICS_H_
#define TESSERA_BASE_METRICS_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

// One value of a counter or a gauge, read from whoever counts it.
struct MetricSample {
  std::string name;  // "tessera_cache_..."; counters end in "_total"
  std::string help;
  bool counter = false;  // else a gauge
  MetricLabels labels;
  double value = 0;
};

// Samples of one name must follow each other. Called for every scrape; must be quick.
using MetricSource = std::function<std::vector<MetricSample>()>;

// How long something takes, in buckets from 10 us to 100 s. Thread-safe.
class LatencyHistogram {
 public:
  virtual ~LatencyHistogram() = default;
  virtual void Observe(absl::Duration took) = 0;
};

// Values in buckets of the caller's choice. Thread-safe.
class ValueHistogram {
 public:
  virtual ~ValueHistogram() = default;
  virtual void Observe(double value) = 0;
};

// Thread-safe.
class Metrics {
 public:
  virtual ~Metrics() = default;

  // Metrics that nobody can scrape yet.
  static std::unique_ptr<Metrics> Make();

  // What the source says is shown from now on. The source must live until RemoveSources, or the
  // end.
  virtual void AddSource(MetricSource source) = 0;
  // Returns when no source is being read, and none will be.
  virtual void RemoveSources() = 0;

  // The histogram of this name and these labels; lives as long as this object.
  virtual LatencyHistogram* AddLatency(const std::string& name, const std::string& help,
                                       const MetricLabels& labels) = 0;

  // The same with upper bounds of buckets, ascending.
  virtual ValueHistogram* AddHistogram(const std::string& name, const std::string& help,
                                       const MetricLabels& labels,
                                       const std::vector<double>& buckets) = 0;

  // Serves GET /metrics on "host:port" until the end. Errors: UNAVAILABLE (taken, not ours).
  virtual absl::Status Serve(const std::string& listen) = 0;

  // What GET /metrics would answer.
  virtual std::string Text() = 0;
};

}  // namespace tessera

#endif  // TESSERA_BASE_METRICS_H_
