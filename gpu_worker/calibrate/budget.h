// What a calibration may spend, and which way to blend it buys.
#ifndef TESSERA_GPU_WORKER_CALIBRATE_BUDGET_H_
#define TESSERA_GPU_WORKER_CALIBRATE_BUDGET_H_

#include <cstddef>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gpu_worker/calibrate/calibrator.h"

namespace tessera {

// Either a bound on the loss, for the fastest way within it, or one on the time, for the closest.
struct Budget {
  enum class Kind {
    kKl,    // mean KL16, nats
    kTtft,  // median share of a full prefill's time
  };
  Kind kind = Kind::kKl;
  double most = 0;

  // "KL=0.2", "ttft=0.4x". INVALID_ARGUMENT says how it is written.
  static absl::StatusOr<Budget> Parse(const std::string& text);

  bool Allows(const CandidateFigures& figures) const;
};

// The best one that the budget allows, as an index; none: it allows none. Of equal ones the one
// that is better in what the budget does not bound, then the first.
std::optional<size_t> Choose(absl::Span<const CandidateFigures> all, const Budget& budget);

// The one that comes nearest to the budget. `all` is not empty.
size_t Nearest(absl::Span<const CandidateFigures> all, const Budget& budget);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_CALIBRATE_BUDGET_H_
