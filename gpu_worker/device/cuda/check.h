// What happens when CUDA fails: the process ends with the operation's name, since nothing that the
// device holds can be trusted any more. Memory that is not to be had is another thing; see
// DeviceMemory.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CHECK_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CHECK_H_

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

namespace tessera::cuda {

[[noreturn]] inline void DieOfCuda(const char* op, cudaError_t error) {
  std::fprintf(stderr, "event=cuda_failed op=%s error=\"%s\" what=%s\n", op,
               cudaGetErrorString(error), cudaGetErrorName(error));
  std::fflush(stderr);
  std::_Exit(1);
}

inline void CheckCuda(const char* op, cudaError_t error) {
  if (error != cudaSuccess) DieOfCuda(op, error);
}

}  // namespace tessera::cuda

// Ends the process when `expression`, a cudaError_t, is an error; `op` names the operation.
#define CUDA_OR_DIE(op, expression) ::tessera::cuda::CheckCuda(op, expression)

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CHECK_H_
