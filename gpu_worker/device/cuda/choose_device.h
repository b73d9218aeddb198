// Which card a process computes on.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CHOOSE_DEVICE_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CHOOSE_DEVICE_H_

#include <string>

#include "absl/status/statusor.h"

namespace tessera::cuda {

// Makes device `index` of those that CUDA may see the process's, before CUDA is used for anything
// else, and gives its name. Errors: FAILED_PRECONDITION (not there, or too old).
absl::StatusOr<std::string> ChooseDevice(int index);

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CHOOSE_DEVICE_H_
