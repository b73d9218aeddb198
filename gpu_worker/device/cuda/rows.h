// Operations on rows of numbers that are bound by memory: lookups, norms, the gated activation,
// copies. See ops.h for what each means.
//
// Columns are a multiple of 8 where a row is of bf16, of 4 where all rows are of floats (other
// shapes end the process, but for F32ToBf16); rows of floats begin at multiples of 16 bytes too.
// Matrices may be columns of a wider one. An operation over no rows launches nothing. Sums are made
// in floats, in an order that the shape alone decides. All kernels take part in programmatic
// dependent launch: they may start before the stream's last kernel has ended, and wait for it; only
// gains, which are constants, are read before that.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_ROWS_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_ROWS_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// out[i] = table[ids[i]]; table: [any][cols], out.rows ids, which are not checked.
void EmbedRows(const __nv_bfloat16* table, int64_t cols, const uint32_t* ids, F32Rows out,
               cudaStream_t stream);

// out = x / sqrt(mean(x^2) + eps) * gain over whole rows of at most 16384 columns.
void RmsNorm(F32Rows x, const float* gain, float eps, Bf16Rows out, cudaStream_t stream);

// The same in place for each run of head_dim numbers (a multiple of 8, at most 512).
void RmsNormHeads(Bf16Rows x, const float* gain, int head_dim, float eps, cudaStream_t stream);

// gate = silu(gate) * up. Both may be halves of one buffer's columns.
void SwiGlu(Bf16Rows gate, Bf16Rows up, cudaStream_t stream);

// out[i] = x[rows[i]]; out.rows indexes.
void GatherRowsF32(F32Rows x, const int32_t* rows, F32Rows out, cudaStream_t stream);
void GatherRowsBf16(Bf16Rows x, const int32_t* rows, Bf16Rows out, cudaStream_t stream);

// to = from.
void CopyRows(Bf16Rows from, Bf16Rows to, cudaStream_t stream);

// to = from, rounded to nearest. Any number of columns.
void F32ToBf16(F32Rows from, Bf16Rows to, cudaStream_t stream);

// scores[slice.first + t] = |fresh row (slice.first + t) - row t of the slice|^2 over its K's, or
// `of_v` its V's, fresh.cols numbers. `slices` is host memory, read before this returns.
void Deviation(Bf16Rows fresh, const Slice* slices, int count, bool of_v, float* scores,
               cudaStream_t stream);

// What is to be kept of fresh K (before RoPE) and V: a copy without gaps between rows. The numbers
// are the cache's bf16 already.
void RoundToSlice(Bf16Rows k, Bf16Rows v, __nv_bfloat16* slice_k, __nv_bfloat16* slice_v,
                  cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_ROWS_H_
