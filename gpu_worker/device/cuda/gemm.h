// Products with a weight by cuBLASLt, for prefill: the library's algorithm for a shape is chosen by
// measurement.
//
// The library's own guess is good on average and now and then far off. So for every bucket of
// shapes (m rounded up, n, k, the types and what is added) its best few candidates are timed on
// scratch memory and the fastest serves all products of the bucket. Sums are in floats; a split of
// K is added up in a fixed order, so that one algorithm gives the same bits every time. Two
// processes may choose differently, and then differ in the last bits: Save and Load carry a choice
// over.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// For one thread and one stream at a time, on the device that was current when it was made. Any
// failure of the library ends the process, but for candidates that it does not support after all.
class Gemm {
 public:
  // Bytes of device memory that the constructor takes.
  static constexpr size_t kWorkspaceBytes = size_t{64} << 20;

  // What decides over the algorithm.
  struct Key {
    int64_t m = 0, n = 0, k = 0;
    bool to_float = false;    // out is of floats, else of bf16
    bool accumulate = false;  // out += ..., of floats only
    bool bias = false;

    auto operator<=>(const Key&) const = default;
  };

  // How a bucket's algorithm was chosen.
  struct Choice {
    int rank = 0;        // place in the library's order; 0 is its first
    int candidates = 0;  // that were timed; 0 when it was not measured
    float us = 0;        // of the chosen one
    float first_us = 0;  // of the library's first
  };

  Gemm();
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // out (+)= x w^T + bias. x: [m][k]; w: [n][k] without gaps; bias: n numbers or null (rounded to
  // bf16 when out is of bf16). All begin at multiples of 16 bytes; k is a multiple of 8, and n too
  // where speed matters. A bucket that is met for the first time is measured now (see Warm); while
  // the stream is captured into a graph, the library's first algorithm serves instead.
  void Run(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
           F32Rows out, cudaStream_t stream);
  void Run(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
           Bf16Rows out, cudaStream_t stream);

  // Measures the bucket of `key` unless that has been done. Waits for the device, takes some 100
  // milliseconds and, for that time, device memory for x, out and 160 MB of weights or one weight;
  // without that memory the library's first algorithm is chosen. Not while capturing.
  Choice Warm(const Key& key);

  // The choices that were measured, as text: of this device and this version of the library. False
  // when the file cannot be written.
  bool Save(const std::string& path) const;

  // Takes over a saved file's choices. A file of another device or version, or a broken one, is
  // left alone with a line in the log; false then.
  bool Load(const std::string& path);

 private:
  class Library;
  const std::unique_ptr<Library> library_;
};

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_H_
