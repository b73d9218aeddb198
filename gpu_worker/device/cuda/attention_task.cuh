// What the kernels of Attend share.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_TASK_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_TASK_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda::attention {

// Attend's arguments. A packed row r is query row r / group, head kv_head * group + r % group.
// Packed rows of one KV head are cut in tiles.
struct Task {
  const __nv_bfloat16* q = nullptr;
  __nv_bfloat16* out = nullptr;
  const int32_t* positions = nullptr;
  const __nv_bfloat16* k = nullptr;
  const __nv_bfloat16* v = nullptr;
  const int32_t* blocks = nullptr;
  int64_t q_stride = 0;
  int64_t out_stride = 0;
  int64_t head_slots = 0;
  int32_t rows = 0;  // packed rows of one KV head: query rows * group
  int32_t last_position = 0;
  int32_t kv_heads = 0;
  int32_t group = 0;
  float scale = 0;        // log2(e) / sqrt(head_dim)
  int32_t row_tiles = 0;  // of one KV head

  // Of the kernel with mma.sync: parts in which the keys of every tile are cut, each of
  // split_tiles tiles of keys.
  int32_t splits = 1;
  int32_t split_tiles = 0;
  // Of the Hopper kernel: see EvenWork.
  bool even = false;

  // The workspace. For tiles whose keys were cut, in MostSlots() slots:
  // [slot][tile rows][head_dim] sums of exp2((score - max) * scale) * v, and [slot][tile rows] of
  // (max, sum of exp2((score - max) * scale)). And begins of EvenWork.
  float* partial = nullptr;
  float2* partial_state = nullptr;
  int32_t* begins = nullptr;
};

constexpr int kMostTileRows = 128;

// Most row tiles of one KV head that EvenWork can share out.
constexpr int kMostEvenTiles = 1024;

Task MakeTask(Bf16Rows q, const int32_t* positions, int32_t last_position, const KvView& kv,
              Bf16Rows out, void* workspace);

int Multiprocessors();

// Slots of the workspace: two for each multiprocessor.
int MostSlots();

// The kernels. LaunchWgmma gives false, and launches nothing, where it does not fit: another
// device than Hopper, head_dim 256.
void LaunchMma(Task task, int head_dim, cudaStream_t stream);
bool LaunchWgmma(Task task, int head_dim, cudaStream_t stream);

// exp2 of one MUFU instruction; -inf gives 0.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

}  // namespace tessera::cuda::attention

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_TASK_CUH_
