// What a sampler reads of a row of logits that stays in a device's memory.
#ifndef TESSERA_GPU_WORKER_DEVICE_LOGITS_SUMMARY_H_
#define TESSERA_GPU_WORKER_DEVICE_LOGITS_SUMMARY_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace tessera {

// Of one row: its likeliest tokens, and the mass of every segment of kSegment ids, from which
// follows what any draw needs of the others. What it says of likeliest tokens counts only where all
// masses are numbers: a NaN or an infinite logit makes a NaN of its segment's.
struct LogitsSummary {
  static constexpr int64_t kMostLikeliest = 256;
  static constexpr int64_t kSegment = 1024;

  // The largest logits, largest first, and whose they are; of equal ones the lower id comes first.
  absl::Span<const float> likeliest;
  absl::Span<const int32_t> ids;
  // Of each segment: its largest logit, the sum of exp(logit - top) and that of
  // exp((logit - top) / temperature), in double precision; -infinity, 0 and 0 where all are masked.
  absl::Span<const float> tops;
  absl::Span<const double> masses;
  absl::Span<const double> masses_at_temperature;
};

// Those of many rows in one piece of memory, which begins at a multiple of 8 bytes. A view.
struct LogitsSummaries {
  LogitsSummaries() = default;
  LogitsSummaries(void* memory, int64_t rows, int64_t vocab)
      : rows(rows),
        likeliest_per_row(std::min(vocab, LogitsSummary::kMostLikeliest)),
        segments_per_row((vocab + LogitsSummary::kSegment - 1) / LogitsSummary::kSegment),
        masses(static_cast<double*>(memory)),
        masses_at_temperature(masses + rows * segments_per_row),
        tops(reinterpret_cast<float*>(masses_at_temperature + rows * segments_per_row)),
        likeliest(tops + rows * segments_per_row),
        ids(reinterpret_cast<int32_t*>(likeliest + rows * likeliest_per_row)) {}

  size_t Bytes() const {
    return rows * (segments_per_row * (2 * sizeof(double) + sizeof(float)) +
                   likeliest_per_row * (sizeof(float) + sizeof(int32_t)));
  }
  // In memory that the program can read.
  LogitsSummary Of(int64_t row) const {
    const auto top = static_cast<size_t>(likeliest_per_row);
    const auto segments = static_cast<size_t>(segments_per_row);
    return {{likeliest + row * likeliest_per_row, top},
            {ids + row * likeliest_per_row, top},
            {tops + row * segments_per_row, segments},
            {masses + row * segments_per_row, segments},
            {masses_at_temperature + row * segments_per_row, segments}};
  }

  int64_t rows = 0;
  int64_t likeliest_per_row = 0;
  int64_t segments_per_row = 0;
  double* masses = nullptr;                 // [rows][segments_per_row]
  double* masses_at_temperature = nullptr;  // the same
  float* tops = nullptr;                    // the same
  float* likeliest = nullptr;               // [rows][likeliest_per_row]
  int32_t* ids = nullptr;                   // the same
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_LOGITS_SUMMARY_H_
