// Products with a weight by cuBLASLt, for prefill: the library's algorithm for a product is chosen
// by measurement, at a start.
//
// The library's own guess is good on average and now and then far off. So for some numbers of rows
// its best few candidates are timed on scratch memory, and the fastest serves all products of so
// many rows and of fewer, down to the next such number. Sums are in floats; a split of K is added
// up in a fixed order, so that one algorithm gives the same bits every time. Another choice may
// differ in the last bits: gemm_prepare.h keeps choices, so that the next start has the same.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "gpu_worker/device/cuda/gemm_choices.h"
#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// For one thread and one stream at a time, on the device that was current when it was made. Any
// failure of the library ends the process, but for candidates that it does not support after all.
class Gemm {
 public:
  // Bytes of device memory that the constructor takes.
  static constexpr size_t kWorkspaceBytes = size_t{64} << 20;

  Gemm();
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // out (+)= x w^T + bias. x: [m][k]; w: [n][k] without gaps; bias: n numbers or null (rounded to
  // bf16 when out is of bf16, and so may be the product that it is added to). All begin at
  // multiples of 16 bytes; k is a multiple of 8, and n too where speed matters. The algorithm is
  // the one of Use, where the library takes it for this very product; its own first choice
  // otherwise. Nothing is measured, and a capture may be under way.
  void Run(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
           F32Rows out, cudaStream_t stream);
  void Run(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
           Bf16Rows out, cudaStream_t stream);

  // What choices hold for here.
  GemmPlatform platform() const;

  // The fastest algorithm for a product of so many rows. Waits for the device, takes some 50
  // milliseconds and, for that time, device memory for x, out and 160 MB of weights or one weight;
  // without that memory it is the library's first, and no candidate was timed. Not while capturing.
  GemmChoice Measure(const GemmProduct& product, int64_t rows);

  // How often Measure was called.
  int64_t measurements() const;

  // From now on, instead of those before.
  void Use(GemmChoices choices);

 private:
  class Library;
  const std::unique_ptr<Library> library_;
};

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_H_
