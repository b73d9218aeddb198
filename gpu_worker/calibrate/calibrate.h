// tessera_worker --calibrate: finds a way to blend within a budget, and leaves it beside the model.
#ifndef TESSERA_GPU_WORKER_CALIBRATE_CALIBRATE_H_
#define TESSERA_GPU_WORKER_CALIBRATE_CALIBRATE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/cancel_flag.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

struct CalibrateOptions {
  std::string model_folder;
  std::string cases;   // path (token_cases.h)
  std::string budget;  // as Budget::Parse takes it
  std::vector<std::string> policies;
  std::vector<std::string> ratios;
  std::vector<std::string> sinks;  // empty: the one of BlendConfig
};

// Prints a table on standard output and progress on standard error, and writes the calibration.
// INVALID_ARGUMENT: an option, or the cases. NOT_FOUND: nothing keeps within the budget; names what
// comes nearest, and nothing is written. CANCELLED when `cancelled` is set. UNAVAILABLE: the file
// cannot be written.
absl::Status Calibrate(const CalibrateOptions& options, const Decoder& decoder,
                       const ChunkKey& fingerprint, const BlendConfig& base,
                       const CancelFlag& cancelled);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_CALIBRATE_CALIBRATE_H_
