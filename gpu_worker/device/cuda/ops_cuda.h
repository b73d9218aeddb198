// Operations on a CUDA device.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_OPS_CUDA_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_OPS_CUDA_H_

#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/device/ops.h"

namespace tessera {

// Ops of device `index`, as CUDA counts them; one device a process, chosen before CUDA was used.
// Weights, activations and KV are bf16, the residual stream and logits f32, sums f32: against the
// CPU's ops results differ by the rounding of bf16 (about 4e-3 of a row's norm for each product).
// FAILED_PRECONDITION: there is no such device or driver, or the device is older than compute
// capability 8.0. Any error of CUDA later on, but for memory that is not to be had, ends the
// process with the operation's name: what the device holds cannot be trusted then, and another
// worker can serve.
absl::StatusOr<std::unique_ptr<Ops>> MakeCudaOps(int index);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_OPS_CUDA_H_
