// What a prefill costs each way, and which way to take (DESIGN 2.3). Arithmetic only: it knows no
// model, no cache and no request.
#ifndef TESSERA_GPU_WORKER_BLEND_COST_MODEL_H_
#define TESSERA_GPU_WORKER_BLEND_COST_MODEL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gpu_worker/blend/cost_shape.h"

namespace tessera {

// A number above 0 that is learned from measurements: the average of their logarithms, the older
// the lighter. What is used changes only in steps of a tenth, so that noise changes no decision.
class LearnedFactor {
 public:
  // It stays within 1/most .. most of `start`.
  LearnedFactor(double start, double most);
  double value() const;  // in use
  // A measurement of it, which may be any number: one that makes no sense is left out. weight: of a
  // full measurement's, which takes the average a fifth of the way to `value`.
  void Learn(double value, double weight = 1);
  // Something else was measured. What was not measured for long is trusted less and less: it moves
  // towards start x exp(goal), so that a way that was slow once is tried again some day.
  void Fade(double goal);
  double log_average() const { return average_; }

 private:
  void UseAverage();

  double start_;
  double most_log_;
  double average_ = 0;
  double in_use_ = 0;
  int unmeasured_ = 0;  // calls of Fade since Learn
};

// What is to be done, and what it should take.
struct CostDecision {
  bool blend = false;
  PrefillKind kind = PrefillKind::kFull;  // of what is to be done
  // A full prefill: whether the prefix is fetched rather than computed again.
  bool fetch_prefix = false;
  // A blend: the first so many cached tokens of each chunk are taken, whole pieces or the whole
  // chunk; the rest is faster computed than fetched.
  std::vector<int64_t> taken;
  double seconds = 0;  // of what is to be done
  // Of these, without waiting for the cache: ordinary prefill, of the prompt or of missing chunks;
  // and what only a blend does.
  double prefill_compute = 0;
  double blend_compute = 0;
  double full_seconds = 0;
  double blend_seconds = 0;
};

// Thread-safe. Between two observations the same shape gets the same decision.
//
//   full    load + compute            (a prefix is fetched first, then the rest is computed)
//   query   max(load, missing chunks + query pass) + recompute + correction
//   hkvd    max(load, missing chunks + check layers + recompute + correction)
//   static  as hkvd without check layers
// compute is passes x pass + rows x row + pairs x pair (+ the rest of CostCoefficients), times a
// factor that was learned: of ordinary prefill for full prefills and missing chunks, of the kind of
// blend for the rest; each 1/4..4. When the machine gets slower, the way that is taken looks worse
// than the other for a few requests.
class CostModel {
 public:
  // How much more the missing chunks' own prefill may cost, since it is stored and pays later.
  static constexpr double kMissingMayCost = 1.25;

  explicit CostModel(const CostCoefficients& coefficients);

  // A blend is chosen if it is no slower than a full prefill, but for kMissingMayCost (only where
  // what is computed is stored).
  CostDecision Choose(const PromptShape& shape) const;
  // What Choose would say if it had to choose the blend, or the full prefill.
  CostDecision Predict(const PromptShape& shape, bool blend) const;

  // Predictions, seconds: of the faster of a full prefill with and without its prefix, and of a
  // blend that takes all that is cached.
  double FullSeconds(const PromptShape& shape) const { return Choose(shape).full_seconds; }
  double BlendSeconds(const PromptShape& shape) const;

  // What it took to do what was decided, without waiting for the cache. Measurements that make no
  // sense are left out.
  void Observe(const CostDecision& decision, double compute_seconds);

  // A fetch: `bytes` were taken within `seconds` after the cache said what it has. link_bound: the
  // reader mostly waited, so that this is the speed of the link; otherwise it is only known to be
  // no slower. Fetches of less than 256 KiB say nothing.
  void ObserveFetch(int64_t bytes, double seconds, bool link_bound);
  // How long the cache took to say what it has.
  void ObserveLookup(double seconds);

  // How long the thread that computes stood still for the cache, in all: to be left out of what it
  // took to compute.
  void AddWait(absl::Duration wait) { waited_ns_ += absl::ToInt64Nanoseconds(wait); }
  absl::Duration waited() const { return absl::Nanoseconds(waited_ns_.load()); }

  double fetch_bytes_per_second() const;
  double lookup_seconds() const;
  // What predictions of this kind are multiplied with; kFull: of ordinary prefill.
  double FactorOf(PrefillKind kind) const;
  const CostCoefficients& coefficients() const { return coefficients_; }

 private:
  struct Factors {
    double prefill;
    std::array<double, kPrefillKinds> of_kind;
    double bytes_per_second;
    double lookup;
  };
  Factors InUse() const;
  void FadeOthers(PrefillKind kind, bool prefill_measured) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  double LoadSeconds(const Factors& factors, int64_t bytes) const;
  CostDecision Full(const Factors& factors, const PromptShape& shape) const;
  // grace: how much longer than a full prefill it may take.
  CostDecision Blend(const Factors& factors, const PromptShape& shape, double* grace) const;
  double BlendSeconds(const Factors& factors, const PromptShape& shape, const BlendParts& parts,
                      int64_t bytes) const;
  std::vector<int64_t> Take(const Factors& factors, const PromptShape& shape,
                            BlendParts* parts) const;

  const CostCoefficients coefficients_;
  std::atomic<int64_t> waited_ns_ = 0;
  mutable absl::Mutex mutex_;
  std::array<LearnedFactor, kPrefillKinds> kinds_ ABSL_GUARDED_BY(mutex_);
  LearnedFactor bytes_per_second_ ABSL_GUARDED_BY(mutex_);
  LearnedFactor lookup_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_COST_MODEL_H_
