#include "gpu_worker/blend/cost_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace tessera {
namespace {

// Until the first fetch says more: a cache on the same machine.
constexpr double kFirstBytesPerSecond = 1e9;
constexpr double kFirstLookupSeconds = 1e-3;
constexpr int64_t kTellingBytes = 256 << 10;

constexpr double kMostKind = 4, kMostFetch = 1e5, kMostLookup = 1e4;
// How far a measurement moves an average.
constexpr double kLearnedShare = 0.2;
// So many measurements of other things later, an average moves so far each time.
constexpr int kTrustedFor = 20;
constexpr double kFadedShare = 0.01;
// A part of a prefill that is smaller says nothing of its kind.
constexpr double kTellingShare = 0.1;
// What is in use follows the average in steps of this factor.
const double kStepLog = std::log(1.1);

bool MakesSense(double x) { return std::isfinite(x) && x > 0; }

}  // namespace

LearnedFactor::LearnedFactor(double start, double most)
    : start_(start), most_log_(std::log(most)) {}

double LearnedFactor::value() const { return start_ * std::exp(in_use_); }

void LearnedFactor::Learn(double value, double weight) {
  if (!MakesSense(value)) return;
  const double goal = std::clamp(std::log(value / start_), -most_log_, most_log_);
  average_ += kLearnedShare * weight * (goal - average_);
  unmeasured_ = 0;
  UseAverage();
}

void LearnedFactor::Fade(double goal) {
  if (++unmeasured_ <= kTrustedFor) return;
  average_ += kFadedShare * (goal - average_);
  UseAverage();
}

void LearnedFactor::UseAverage() {
  if (std::abs(average_ - in_use_) > kStepLog) in_use_ = average_;
}

CostModel::CostModel(const CostCoefficients& coefficients)
    : coefficients_(coefficients),
      kinds_{LearnedFactor(1, kMostKind), LearnedFactor(1, kMostKind), LearnedFactor(1, kMostKind),
             LearnedFactor(1, kMostKind)},
      bytes_per_second_(kFirstBytesPerSecond, kMostFetch),
      lookup_(kFirstLookupSeconds, kMostLookup) {}

CostModel::Factors CostModel::InUse() const {
  absl::MutexLock lock(&mutex_);
  Factors factors;
  for (size_t i = 0; i < kPrefillKinds; ++i) {
    factors.of_kind[i] = kinds_[i].value();
  }
  factors.prefill = factors.of_kind[static_cast<size_t>(PrefillKind::kFull)];
  factors.bytes_per_second = bytes_per_second_.value();
  factors.lookup = lookup_.value();
  return factors;
}

double CostModel::FactorOf(PrefillKind kind) const {
  return InUse().of_kind[static_cast<size_t>(kind)];
}

double CostModel::fetch_bytes_per_second() const { return InUse().bytes_per_second; }
double CostModel::lookup_seconds() const { return InUse().lookup; }

double CostModel::LoadSeconds(const Factors& factors, int64_t bytes) const {
  if (bytes == 0) return 0;
  return factors.lookup + static_cast<double>(bytes) / factors.bytes_per_second;
}

double CostModel::BlendSeconds(const Factors& factors, const PromptShape& shape,
                               const BlendParts& parts, int64_t bytes) const {
  const double factor = factors.of_kind[static_cast<size_t>(shape.kind)];
  const double load = LoadSeconds(factors, bytes);
  double beside = 0;  // what only a blend does, while the rest arrives
  if (shape.layerwise) {
    beside += parts.before;
    if (shape.kind != PrefillKind::kQuery) beside += parts.after;
  }
  return std::max(load, factors.prefill * parts.missing + factor * beside) +
         factor * (parts.before + parts.after - beside);
}

double CostModel::BlendSeconds(const PromptShape& shape) const {
  return BlendSeconds(InUse(), shape, BlendPartsOf(coefficients_, shape), shape.fetched_bytes());
}

// From the last chunk to the first, which is the order in which they arrive backwards, and in each
// from its end: leaves a piece to be computed for as long as that makes the whole faster.
std::vector<int64_t> CostModel::Take(const Factors& factors, const PromptShape& shape,
                                     BlendParts* parts) const {
  std::vector<int64_t> taken;
  for (const ChunkShape& chunk : shape.chunks) taken.push_back(chunk.cached);
  int64_t bytes = shape.fetched_bytes();
  double best = BlendSeconds(factors, shape, *parts, bytes);
  for (size_t i = taken.size(); i-- > 0;) {
    const ChunkShape& chunk = shape.chunks[i];
    auto prefill = [&](int64_t cached) {
      return cached == chunk.tokens
                 ? 0.0
                 : ChunkPrefillSeconds(coefficients_, chunk.tokens, cached, shape.tokens_per_piece);
    };
    while (taken[i] > chunk.resident) {
      const int64_t fewer = std::max(
          chunk.resident, (taken[i] - 1) / shape.tokens_per_piece * shape.tokens_per_piece);
      BlendParts other = *parts;
      other.missing += prefill(fewer) - prefill(taken[i]);
      const int64_t other_bytes = bytes - (taken[i] - fewer) * shape.bytes_per_token;
      const double seconds = BlendSeconds(factors, shape, other, other_bytes);
      if (seconds >= best) return taken;
      best = seconds;
      *parts = other;
      bytes = other_bytes;
      taken[i] = fewer;
    }
  }
  return taken;
}

CostDecision CostModel::Full(const Factors& factors, const PromptShape& shape) const {
  auto compute = [&](int64_t prefix) {
    return factors.prefill * FullPrefillSeconds(coefficients_, shape.tokens(), prefix);
  };
  const int64_t resident = std::min(shape.prefix, shape.resident_prefix);
  const int64_t bytes = (shape.prefix - resident) * shape.bytes_per_token;
  // Later blocks take longer to compute and as long to fetch: all are fetched, or none.
  const double load = LoadSeconds(factors, bytes);
  CostDecision full;
  full.fetch_prefix = bytes > 0 && load + compute(shape.prefix) < compute(resident);
  full.prefill_compute = compute(full.fetch_prefix ? shape.prefix : resident);
  full.seconds = full.prefill_compute + (full.fetch_prefix ? load : 0);
  return full;
}

CostDecision CostModel::Blend(const Factors& factors, const PromptShape& shape,
                              double* grace) const {
  BlendParts parts = BlendPartsOf(coefficients_, shape);
  *grace = shape.store ? (kMissingMayCost - 1) * factors.prefill * parts.missing : 0;
  CostDecision blend;
  blend.blend = true;
  blend.kind = shape.kind;
  blend.taken = Take(factors, shape, &parts);
  int64_t fetched = 0;  // tokens
  for (size_t i = 0; i < blend.taken.size(); ++i) {
    fetched += std::max<int64_t>(0, blend.taken[i] - shape.chunks[i].resident);
  }
  blend.seconds = BlendSeconds(factors, shape, parts, fetched * shape.bytes_per_token);
  blend.prefill_compute = factors.prefill * parts.missing;
  blend.blend_compute =
      factors.of_kind[static_cast<size_t>(shape.kind)] * (parts.before + parts.after);
  return blend;
}

CostDecision CostModel::Predict(const PromptShape& shape, bool blend) const {
  const Factors factors = InUse();
  double grace = 0;
  CostDecision decision = blend ? Blend(factors, shape, &grace) : Full(factors, shape);
  decision.full_seconds = blend ? Full(factors, shape).seconds : decision.seconds;
  decision.blend_seconds = blend ? decision.seconds : Blend(factors, shape, &grace).seconds;
  return decision;
}

CostDecision CostModel::Choose(const PromptShape& shape) const {
  const Factors factors = InUse();
  double grace = 0;
  const CostDecision full = Full(factors, shape), blend = Blend(factors, shape, &grace);
  const bool blends = !shape.chunks.empty() && blend.seconds <= full.seconds + grace;
  CostDecision decision = blends ? blend : full;
  decision.full_seconds = full.seconds;
  decision.blend_seconds = blend.seconds;
  decision.taken = blend.taken;
  return decision;
}

void CostModel::Observe(const CostDecision& decision, double compute_seconds) {
  const double predicted = decision.prefill_compute + decision.blend_compute;
  const double error = compute_seconds / predicted;
  if (!MakesSense(predicted) || !MakesSense(error)) return;
  absl::MutexLock lock(&mutex_);
  // Each part has its share of the error.
  const double share = decision.prefill_compute / predicted;
  LearnedFactor& prefill = kinds_[static_cast<size_t>(PrefillKind::kFull)];
  if (share >= kTellingShare) prefill.Learn(error * prefill.value(), share);
  LearnedFactor& blend = kinds_[static_cast<size_t>(decision.kind)];
  if (1 - share >= kTellingShare) blend.Learn(error * blend.value(), 1 - share);
  FadeOthers(decision.kind, share >= kTellingShare);
}

void CostModel::FadeOthers(PrefillKind kind, bool prefill_measured) {
  const double goal = kinds_[static_cast<size_t>(kind)].log_average();
  for (size_t i = 0; i < kPrefillKinds; ++i) {
    const auto other = static_cast<PrefillKind>(i);
    if (other == kind || (other == PrefillKind::kFull && prefill_measured)) continue;
    kinds_[i].Fade(goal);
  }
  bytes_per_second_.Fade(0);
}

void CostModel::ObserveFetch(int64_t bytes, double seconds, bool link_bound) {
  if (bytes < kTellingBytes || !MakesSense(seconds)) return;
  const double speed = static_cast<double>(bytes) / seconds;
  absl::MutexLock lock(&mutex_);
  if (link_bound || speed > bytes_per_second_.value()) bytes_per_second_.Learn(speed);
}

void CostModel::ObserveLookup(double seconds) {
  absl::MutexLock lock(&mutex_);
  lookup_.Learn(seconds);
}

}  // namespace tessera
