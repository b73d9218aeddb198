// The warpgroup's matrix product of Hopper, in the shapes that the correction needs, and its bulk
// copy.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_WGMMA_CUH_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_WGMMA_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace tessera::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TESSERA_CORRECTION_WGMMA 1
#else
#define TESSERA_CORRECTION_WGMMA 0
#endif

#if TESSERA_CORRECTION_WGMMA

// Describes rows of `kRowBytes` (64 or 128) bytes in shared memory whose 16-byte parts are swizzled
// as Swizzled() does; groups of 8 rows stand one after the other, at multiples of their size.
template <int kRowBytes>
__device__ inline uint64_t MatrixDescriptor(uint32_t address) {
  constexpr uint64_t kSwizzle = kRowBytes == 128 ? 1 : 2;
  return (kSwizzle << 62) | (uint64_t{kRowBytes * 8 / 16} << 32) | (uint64_t{1} << 16) |
         (address >> 4 & 0x3fff);
}

// Describes a matrix whose columns lie along its rows in shared memory: blocks of 64 columns, each
// a stretch of rows of 128 bytes swizzled as Swizzled<128>() does, `block_bytes` apart.
__device__ inline uint64_t TransposedDescriptor(uint32_t address, int block_bytes) {
  return (uint64_t{1} << 62) | (uint64_t{1024 / 16} << 32) |
         (static_cast<uint64_t>(block_bytes / 16) << 16) | (address >> 4 & 0x3fff);
}

// Stores of this thread to shared memory become visible to products issued after a barrier.
__device__ inline void FenceForProducts() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ inline void BeginProducts() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
__device__ inline void WaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory");
}

#define TESSERA_QUAD(q) "+f"(q[0]), "+f"(q[1]), "+f"(q[2]), "+f"(q[3])

// sums [64][160] += a [64][16] b [160][16]^T. Quad q of warp w, lane l: rows 16 w + l / 4 and 8
// more, columns 8 q + 2 (l % 4) and the next.
__device__ inline void Multiply64x160(float (&sums)[20][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.eq.u32 accumulate, %82, 1;\n"
      "wgmma.mma_async.sync.aligned.m64n160k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, "
      "%77, %78, %79}, "
      "%80, %81, accumulate, 1, 1, 0, 0;\n"
      "}\n"
      : TESSERA_QUAD(sums[0]), TESSERA_QUAD(sums[1]), TESSERA_QUAD(sums[2]), TESSERA_QUAD(sums[3]),
        TESSERA_QUAD(sums[4]), TESSERA_QUAD(sums[5]), TESSERA_QUAD(sums[6]), TESSERA_QUAD(sums[7]),
        TESSERA_QUAD(sums[8]), TESSERA_QUAD(sums[9]), TESSERA_QUAD(sums[10]),
        TESSERA_QUAD(sums[11]), TESSERA_QUAD(sums[12]), TESSERA_QUAD(sums[13]),
        TESSERA_QUAD(sums[14]), TESSERA_QUAD(sums[15]), TESSERA_QUAD(sums[16]),
        TESSERA_QUAD(sums[17]), TESSERA_QUAD(sums[18]), TESSERA_QUAD(sums[19])
      : "l"(a), "l"(b), "r"(1));
}

// sums [64][128] += a [64][16] b [16][128], b with its columns along its rows; sums as above.
__device__ inline void Multiply64x128(float (&sums)[16][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.eq.u32 accumulate, %66, 1;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
      "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63}, "
      "%64, %65, accumulate, 1, 1, 0, 1;\n"
      "}\n"
      : TESSERA_QUAD(sums[0]), TESSERA_QUAD(sums[1]), TESSERA_QUAD(sums[2]), TESSERA_QUAD(sums[3]),
        TESSERA_QUAD(sums[4]), TESSERA_QUAD(sums[5]), TESSERA_QUAD(sums[6]), TESSERA_QUAD(sums[7]),
        TESSERA_QUAD(sums[8]), TESSERA_QUAD(sums[9]), TESSERA_QUAD(sums[10]),
        TESSERA_QUAD(sums[11]), TESSERA_QUAD(sums[12]), TESSERA_QUAD(sums[13]),
        TESSERA_QUAD(sums[14]), TESSERA_QUAD(sums[15])
      : "l"(a), "l"(b), "r"(1));
}

#undef TESSERA_QUAD

// A barrier in shared memory that bulk copies complete.
__device__ inline void InitBarrier(uint32_t barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n" ::"r"(barrier) : "memory");
}
__device__ inline void FenceBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
// The barrier's phase ends when `bytes` have been copied.
__device__ inline void ExpectBytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Copies `bytes`, a multiple of 16, to shared memory.
__device__ inline void CopyBulk(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
__device__ inline void WaitBarrier(uint32_t barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// A barrier among a warpgroup.
__device__ inline void SyncWarpgroup() {
  asm volatile("bar.sync %0, 128;\n" ::"r"(threadIdx.x / 128 + 1) : "memory");
}

#endif  // TESSERA_CORRECTION_WGMMA

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_CORRECTION_WGMMA_CUH_
