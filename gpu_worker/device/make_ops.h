// Which device computes.
#ifndef TESSERA_GPU_WORKER_DEVICE_MAKE_OPS_H_
#define TESSERA_GPU_WORKER_DEVICE_MAKE_OPS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gpu_worker/device/ops.h"

namespace tessera {

// device: "cpu"; "cuda", "cuda:1", ...; or "auto": the first CUDA device, if this program was built
// for CUDA and there is one that it can use, and the CPU otherwise. threads: of the CPU; 0: one per
// core. INVALID_ARGUMENT: another name; FAILED_PRECONDITION: the device is not there, or the
// program was built without it.
absl::StatusOr<std::unique_ptr<Ops>> MakeOps(const std::string& device, int threads);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_MAKE_OPS_H_
