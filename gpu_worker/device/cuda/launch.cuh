// Launches that overlap the end of the stream's last kernel.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_LAUNCH_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstddef>

#include "gpu_worker/device/cuda/check.h"

namespace tessera::cuda {

// Programmatic dependent launch. Every kernel that LaunchOverlapped starts calls both: the first
// lets the stream's next kernel start as soon as there is room for it; the second waits until the
// last one has ended and all that it wrote can be read. Nothing that another kernel writes may be
// read, and nothing that it reads may be written, before the second.
__device__ inline void LetNextStart() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline void AwaitLast() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Whether kernels, of which `kernel` is one, wait as above: they were compiled for Hopper or later.
inline bool CanOverlap(const void* kernel) {
  static const bool can = [kernel] {
    cudaFuncAttributes attributes;
    CUDA_OR_DIE("kernel", cudaFuncGetAttributes(&attributes, kernel));
    return attributes.ptxVersion >= 90 && attributes.binaryVersion >= 90;
  }();
  return can;
}

template <typename... Parameters, typename... Arguments>
void LaunchOverlapped(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                      size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = CanOverlap(reinterpret_cast<const void*>(kernel)) ? 1 : 0;
  CUDA_OR_DIE(op, cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_LAUNCH_CUH_
