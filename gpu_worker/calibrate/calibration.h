// What a model's calibration found, as a small file beside the model that every start reads.
#ifndef TESSERA_GPU_WORKER_CALIBRATE_CALIBRATION_H_
#define TESSERA_GPU_WORKER_CALIBRATE_CALIBRATION_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// The chosen way to blend, and what was measured of it. KL is of the full recompute to the blend,
// in nats.
struct Calibration {
  std::string fingerprint;  // hex, of the layout: weights, RoPE and the like
  std::string policy;
  double recompute_ratio = 0;
  bool correction = false;
  std::string sink;    // as the option has it
  std::string budget;  // as it was given: "KL=0.2"
  std::string date;    // 2026-11-28, UTC
  // Measured.
  std::string device;  // such as "cpu-bf16": times are this one's
  int64_t cases = 0;
  int64_t mean_tokens = 0;  // of a prompt
  double kl1 = 0;           // of the first token, mean
  double kl16 = 0;          // of the first 16 tokens, mean
  double kl16_worst = 0;    // of these the worst
  double ttft_share = 0;    // of a full prefill's time, median

  // For log lines, without spaces: "query_v,0.15,corrected,bos".
  std::string Choice() const;
};

// FOLDER/tessera_calibration.json
std::string CalibrationPath(const std::string& model_folder);

// None: there is no such file. FAILED_PRECONDITION: it is of another fingerprint, cannot be read or
// is no calibration; the message names the file and says what to do.
absl::StatusOr<std::optional<Calibration>> ReadCalibration(const std::string& model_folder,
                                                           const std::string& fingerprint);

// Puts it in the place of the one that is there, as a whole or not at all. UNAVAILABLE: cannot
// write there.
absl::Status WriteCalibration(const std::string& model_folder, const Calibration& calibration);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_CALIBRATE_CALIBRATION_H_
