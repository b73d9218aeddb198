// Types that the launches of all CUDA kernels share. Every pointer is of device memory, every
// launch is put on `stream` and waits for nothing.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_KERNELS_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_KERNELS_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace tessera::cuda {

// Rows of numbers: row r begins at data + r * stride; stride >= cols, in numbers. Rows of bf16
// begin at multiples of 16 bytes.
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
};
using Bf16Rows = Rows<__nv_bfloat16>;
using F32Rows = Rows<float>;

// cos and sin of every position: [position][half_dim].
struct Rope {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int half_dim = 0;
};

// One layer of KV memory; K is rotated. The head_dim numbers of slot s of head h begin at row
//   h * head_slots + blocks[s / 64] * 64 + s % 64      or, without blocks, h * head_slots + s.
struct KvView {
  static constexpr int kBlockSlots = 64;

  __nv_bfloat16* k = nullptr;
  __nv_bfloat16* v = nullptr;
  const int32_t* blocks = nullptr;
  int64_t head_slots = 0;
  int kv_heads = 0;
  int head_dim = 0;
};

// One layer of one piece of a chunk: K before RoPE, then V, [token][kv_head * head_dim].
struct Slice {
  const __nv_bfloat16* k = nullptr;
  const __nv_bfloat16* v = nullptr;
  int32_t tokens = 0;
  int32_t first = 0;  // position, or row, of its first token
};

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_KERNELS_H_
