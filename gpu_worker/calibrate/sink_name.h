// Sinks by the names that the option `sink` has for them.
#ifndef TESSERA_GPU_WORKER_CALIBRATE_SINK_NAME_H_
#define TESSERA_GPU_WORKER_CALIBRATE_SINK_NAME_H_

#include <string>

#include "absl/status/statusor.h"
#include "gpu_worker/blend/blender.h"

namespace tessera {

// INVALID_ARGUMENT names those there are.
absl::StatusOr<SinkKind> ParseSink(const std::string& name);

std::string SinkName(SinkKind sink);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_CALIBRATE_SINK_NAME_H_
