#include "gpu_worker/device/cpu/logits_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "absl/types/span.h"
#include "glog/logging.h"

namespace tessera {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

void WriteLikeliest(absl::Span<const float> row, int64_t count, float* logits, int32_t* ids) {
  // A NaN has no order among numbers, so here it is the least.
  auto value = [&](int32_t id) { return std::isnan(row[id]) ? kMasked : row[id]; };
  std::vector<int32_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    return value(a) != value(b) ? value(a) > value(b) : a < b;
  });
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = order[i];
    logits[i] = row[order[i]];
  }
}

struct SegmentMass {
  float top = kMasked;
  double mass = 0, at_temperature = 0;
};

SegmentMass MassOf(absl::Span<const float> segment, double temperature) {
  SegmentMass made;
  for (const float x : segment) made.top = std::max(made.top, x);
  for (const float x : segment) {
    if (x == kMasked) continue;
    const double below = static_cast<double>(x) - made.top;
    made.mass += std::exp(below);
    made.at_temperature += std::exp(below / temperature);
  }
  return made;
}

}  // namespace

void SummarizeLogitsOnCpu(Parallel& parallel, Matrix logits, const float* temperatures,
                          const LogitsSummaries& out) {
  CHECK_EQ(logits.rows, out.rows);
  parallel.For(logits.rows, [&](int64_t r) {
    const auto row = absl::MakeConstSpan(logits.Row(r), static_cast<size_t>(logits.cols));
    const int64_t best = r * out.likeliest_per_row;
    WriteLikeliest(row, out.likeliest_per_row, out.likeliest + best, out.ids + best);
    for (int64_t s = 0; s < out.segments_per_row; ++s) {
      const SegmentMass made = MassOf(
          row.subspan(s * LogitsSummary::kSegment, LogitsSummary::kSegment), temperatures[r]);
      const int64_t at = r * out.segments_per_row + s;
      out.tops[at] = made.top;
      out.masses[at] = made.mass;
      out.masses_at_temperature[at] = made.at_temperature;
    }
  });
}

}  // namespace tessera
