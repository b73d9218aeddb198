// How far blended answers are from what a full recompute would have given (DESIGN 2.4), measured on
// a share of the requests after they were answered.
#ifndef TESSERA_GPU_WORKER_SERVE_DRIFT_H_
#define TESSERA_GPU_WORKER_SERVE_DRIFT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/metric_samples.h"
#include "base/metrics.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/generation.h"

namespace tessera {

// One at a time waits or runs; what comes meanwhile is skipped and counted. While it does, it holds
// the prompt's KV in memory of its own, beside that of the requests. Step and the listeners are for
// the engine's thread; the rest is thread-safe.
class DriftSampler {
 public:
  // Of an answer, so many tokens are looked at.
  static constexpr size_t kMostTokens = 16;

  // share: of the blended requests, 0..1. kl: where KL(full || blend) of the first token goes,
  // nats. Both pointers must outlive it.
  DriftSampler(double share, const Decoder* decoder, ValueHistogram* kl);
  ~DriftSampler();

  // For a request of the share, in place of `listener`: tells it everything and remembers what is
  // needed. For any other, `listener`. `generation` is the one that will own it.
  std::unique_ptr<GenerationListener> Sampled(std::unique_ptr<GenerationListener> listener,
                                              const Generation* generation);

  // A step of the full recompute that waits: some dozens of rows. False: none waits. When
  // *cancelled turns true, it is dropped.
  bool Step(const std::atomic<bool>& cancelled);

  struct Counters {
    uint64_t measured = 0;
    uint64_t skipped = 0;  // because another one was waiting
    uint64_t dropped = 0;  // because the worker ends
    uint64_t same = 0;     // greedy tokens that a full recompute would have chosen too
    uint64_t other = 0;
  };
  Counters counters() const;
  void AddSamples(MetricSamples* samples) const;

  // Whether this request is of the share: always the same for the same id, however many workers
  // there are. Requests without an id are numbered.
  static bool InShare(const std::string& request_id, double share);

 private:
  class Listener;
  struct Sample {
    std::vector<uint32_t> prompt;
    std::vector<uint32_t> answer;
    std::vector<float> logits;  // of the prompt's last row, blended
    bool greedy = false;        // without bias, penalties or masks
  };

  void Offer(Sample sample);
  absl::Status RunRows(const std::atomic<bool>& cancelled);
  void Compare(absl::Span<const float> full);

  const double share_;
  const Decoder& decoder_;
  ValueHistogram& kl_;
  std::unique_ptr<Sample> pending_;
  KvMemory kv_;       // of pending_, from its first step on
  int64_t done_ = 0;  // its rows
  std::atomic<uint64_t> unnamed_ = 0;
  std::atomic<uint64_t> measured_ = 0, skipped_ = 0, dropped_ = 0, same_ = 0, other_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_DRIFT_H_
