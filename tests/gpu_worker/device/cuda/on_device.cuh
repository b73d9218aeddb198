// Numbers in device memory and times of launches, for the tests of kernels.
#ifndef TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_ON_DEVICE_CUH_
#define TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_ON_DEVICE_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "gpu_worker/device/cuda/check.h"

namespace tessera::cuda {

constexpr uint16_t kNaN = 0x7fff;  // of bf16

inline uint16_t ToBits(float x) {
  const __nv_bfloat16 rounded = __float2bfloat16(x);
  uint16_t bits;
  std::memcpy(&bits, &rounded, 2);
  return bits;
}
inline double ToDouble(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

inline bool NoDevice() {
  int count = 0;
  return cudaGetDeviceCount(&count) != cudaSuccess || count == 0;
}

// Numbers in device memory.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(size_t n) : n_(n) {
    CUDA_OR_DIE("test", cudaMalloc(&data_, std::max<size_t>(n, 1) * sizeof(T)));
  }
  explicit OnDevice(const std::vector<T>& from) : OnDevice(from.size()) { Set(from); }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data_); }
  void Set(const std::vector<T>& from) {
    CUDA_OR_DIE("test", cudaMemcpy(data_, from.data(), from.size() * sizeof(T), cudaMemcpyDefault));
  }
  // Behind all work of the device.
  std::vector<T> Get() const {
    std::vector<T> all(n_);
    CUDA_OR_DIE("test", cudaDeviceSynchronize());
    CUDA_OR_DIE("test", cudaMemcpy(all.data(), data_, n_ * sizeof(T), cudaMemcpyDefault));
    return all;
  }
  T* get() const { return data_; }
  __nv_bfloat16* bf16() const { return reinterpret_cast<__nv_bfloat16*>(data_); }

 private:
  T* data_ = nullptr;
  size_t n_;
};

// Random numbers, two of bf16 in each.
static __global__ void FillRandom(uint32_t* to, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u;
    x ^= x >> 15;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    // Two bf16 of magnitude 0.5 .. 2.
    to[i] = (x & 0x80ff80ffu) | 0x3f003f00u;
  }
}

// Median microseconds of one of `launches` in a graph: launch(i, stream) puts the i-th there.
inline double MedianOf(int launches, const std::function<void(int, cudaStream_t)>& launch) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaEvent_t begin, end;
  CUDA_OR_DIE("time", cudaEventCreate(&begin));
  CUDA_OR_DIE("time", cudaEventCreate(&end));
  CUDA_OR_DIE("time", cudaStreamCreate(&stream));
  CUDA_OR_DIE("time", cudaDeviceSynchronize());
  CUDA_OR_DIE("time", cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < launches; ++i) launch(i, stream);
  CUDA_OR_DIE("time", cudaStreamEndCapture(stream, &graph));
  CUDA_OR_DIE("time", cudaGraphInstantiate(&exec, graph, 0));
  std::vector<float> times;
  for (int i = 0; i < 18; ++i) {
    CUDA_OR_DIE("time", cudaEventRecord(begin, stream));
    CUDA_OR_DIE("time", cudaGraphLaunch(exec, stream));
    CUDA_OR_DIE("time", cudaEventRecord(end, stream));
    CUDA_OR_DIE("time", cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OR_DIE("time", cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) times.push_back(ms * 1000 / launches);  // the first ones warm up
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace tessera::cuda

#endif  // TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_ON_DEVICE_CUH_
