// Warp-level building blocks of the attention kernels: asynchronous copies to shared memory and
// the tensor cores' m16n8k16 product with its fragments. sm_80 and later.
//
// Fragments, for lane = 4 * g + t:
//   A [16][16]: a0 row g, a1 row g + 8, columns 2t and 2t + 1; a2, a3 the same, columns + 8.
//   B [16][8]:  b0 column g, rows 2t and 2t + 1; b1 the same, rows + 8.
//   C [16][8]:  c0, c1 row g, columns 2t and 2t + 1; c2, c3 row g + 8.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace tessera::cuda::warp {

constexpr unsigned kAll = 0xffffffffu;
constexpr float kLog2E = 1.4426950408889634f;

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes to shared memory; zeros instead, and no read, unless `real`.
__device__ inline void CopyAsync(uint32_t to, const void* from, bool real) {
  const int bytes = real ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from),
               "r"(bytes)
               : "memory");
}

__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Until all but the newest kLeft groups of this thread are there.
template <int kLeft>
__device__ inline void WaitCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

// Four 8 x 8 matrices of b16; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void LoadMatrices(uint32_t address, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline void LoadMatricesTransposed(uint32_t address, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline uint32_t Transposed(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
  return y;
}

// c += a b
__device__ inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t Pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Over the lanes of equal lane % 4.
__device__ inline float MaxOverRows(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAll, x, 4));
  x = fmaxf(x, __shfl_xor_sync(kAll, x, 8));
  return fmaxf(x, __shfl_xor_sync(kAll, x, 16));
}

__device__ inline float SumOverRows(float x) {
  x += __shfl_xor_sync(kAll, x, 4);
  x += __shfl_xor_sync(kAll, x, 8);
  return x + __shfl_xor_sync(kAll, x, 16);
}

}  // namespace tessera::cuda::warp

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ATTENTION_DECODE_CUH_
