#include "gpu_worker/device/cuda/choose_device.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "gpu_worker/device/cuda/check.h"

namespace tessera::cuda {
namespace {

absl::Status NoDevice(int index, const std::string& why) {
  return absl::FailedPreconditionError(absl::StrCat("there is no CUDA device ", index, ": ", why,
                                                    "; use --device=cpu, or another device"));
}

// Makes device `index` the only one: CUDA's choice of a device belongs to a thread, and several
// threads of a worker call it.
absl::Status ShowOnly(int index) {
  std::string device = absl::StrCat(index);
  if (const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
    const std::vector<std::string> all = absl::StrSplit(visible, ',', absl::SkipEmpty());
    if (index >= static_cast<int>(all.size())) {
      return NoDevice(index, absl::StrCat("CUDA_VISIBLE_DEVICES has ", all.size()));
    }
    device = all[index];
  }
  setenv("CUDA_VISIBLE_DEVICES", device.c_str(), 1);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ChooseDevice(int index) {
  if (index > 0) {
    RETURN_IF_ERROR(ShowOnly(index));
  }
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return NoDevice(index, cudaGetErrorString(error));
  if (devices == 0) return NoDevice(index, "this machine has none");
  CUDA_OR_DIE("device", cudaSetDevice(0));
  cudaDeviceProp properties;
  CUDA_OR_DIE("device", cudaGetDeviceProperties(&properties, 0));
  if (properties.major < 8) {
    return absl::FailedPreconditionError(absl::StrCat(
        "CUDA device ", index, " (", properties.name, ") has compute capability ", properties.major,
        ".", properties.minor, "; the worker needs 8.0: use --device=cpu"));
  }
  return std::string(properties.name);
}

}  // namespace tessera::cuda
