#include "base/metrics.h"

#include <prometheus/client_metric.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <exception>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace tessera {
namespace {

// Two scrapers at a time are plenty.
constexpr size_t kServerThreads = 2;

const prometheus::Histogram::BucketBoundaries& Buckets() {
  static const prometheus::Histogram::BucketBoundaries buckets = {
      1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2,
      5e-2, 0.1,    0.25, 0.5,  1,      2.5,  5,    10,     25,   100};
  return buckets;
}

class Histogram : public LatencyHistogram, public ValueHistogram {
 public:
  explicit Histogram(prometheus::Histogram* histogram) : histogram_(*histogram) {}
  void Observe(absl::Duration took) override { Observe(absl::ToDoubleSeconds(took)); }
  void Observe(double value) override { histogram_.Observe(value); }

 private:
  prometheus::Histogram& histogram_;
};

// Asks the sources at every scrape.
class Sources : public prometheus::Collectable {
 public:
  void Add(MetricSource source) {
    absl::MutexLock lock(&mutex_);
    sources_.push_back(std::move(source));
  }
  void Clear() {
    absl::MutexLock lock(&mutex_);
    sources_.clear();
  }

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    absl::MutexLock lock(&mutex_);
    for (const MetricSource& source : sources_) {
      for (const MetricSample& sample : source()) AddSample(sample, &families);
    }
    return families;
  }

 private:
  static void AddSample(const MetricSample& sample,
                        std::vector<prometheus::MetricFamily>* families) {
    if (families->empty() || families->back().name != sample.name) {
      families->emplace_back();
      families->back().name = sample.name;
      families->back().help = sample.help;
      families->back().type =
          sample.counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
    }
    prometheus::ClientMetric metric;
    for (const auto& [name, value] : sample.labels) metric.label.push_back({name, value});
    (sample.counter ? metric.counter.value : metric.gauge.value) = sample.value;
    families->back().metric.push_back(std::move(metric));
  }

  mutable absl::Mutex mutex_;
  std::vector<MetricSource> sources_ ABSL_GUARDED_BY(mutex_);
};

class PrometheusMetrics : public Metrics {
 public:
  void AddSource(MetricSource source) override { sources_->Add(std::move(source)); }
  void RemoveSources() override { sources_->Clear(); }

  LatencyHistogram* AddLatency(const std::string& name, const std::string& help,
                               const MetricLabels& labels) override {
    return Add(name, help, labels, Buckets());
  }

  ValueHistogram* AddHistogram(const std::string& name, const std::string& help,
                               const MetricLabels& labels,
                               const std::vector<double>& buckets) override {
    return Add(name, help, labels, buckets);
  }

  absl::Status Serve(const std::string& listen) override {
    absl::MutexLock lock(&mutex_);
    try {  // civetweb's wrapper throws
      exposer_ = std::make_unique<prometheus::Exposer>(listen, kServerThreads);
    } catch (const std::exception& error) {
      return absl::UnavailableError(
          absl::StrCat("cannot serve metrics on ", listen, ": taken, or not an address of ours"));
    }
    exposer_->RegisterCollectable(registry_);
    exposer_->RegisterCollectable(sources_);
    return absl::OkStatus();
  }

  std::string Text() override {
    std::vector<prometheus::MetricFamily> families = registry_->Collect();
    for (prometheus::MetricFamily& family : sources_->Collect()) {
      families.push_back(std::move(family));
    }
    return prometheus::TextSerializer().Serialize(families);
  }

 private:
  Histogram* Add(const std::string& name, const std::string& help, const MetricLabels& labels,
                 const prometheus::Histogram::BucketBoundaries& buckets) {
    absl::MutexLock lock(&mutex_);
    prometheus::Family<prometheus::Histogram>& family =
        prometheus::BuildHistogram().Name(name).Help(help).Register(*registry_);
    const std::map<std::string, std::string> all(labels.begin(), labels.end());
    histograms_.push_back(std::make_unique<Histogram>(&family.Add(all, buckets)));
    return histograms_.back().get();
  }

  const std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  const std::shared_ptr<Sources> sources_ = std::make_shared<Sources>();
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Histogram>> histograms_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<prometheus::Exposer> exposer_ ABSL_GUARDED_BY(mutex_);  // last: it goes first
};

}  // namespace

std::unique_ptr<Metrics> Metrics::Make() { return std::make_unique<PrometheusMetrics>(); }

}  // namespace tessera
