// Products of a few rows with a weight, for decode: bound by the weight's bytes.
//
// A row of out has the same bits whatever other rows there are and however many: the columns of a
// weight's row are cut into chunks of 64, chunk c belongs to strand c % 8; a strand adds its chunks
// up in order on the tensor cores, in floats; the 8 strands are added in order, then the bias, then
// what out held. Neither the number of rows nor the device takes part in that.
//
// The weight is read ahead of the stream's last kernel (programmatic dependent launch; see rows.h),
// so it must have been written before that kernel began: weights are constants.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_FEW_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_FEW_H_

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// The most rows of one product.
constexpr int64_t kMostFewRows = 64;

// Bytes of workspace that a product with an [n][k] weight needs.
size_t GemmFewWorkspace(int64_t n, int64_t k);

// out (+)= x w^T + bias. x: [m][k], m <= kMostFewRows; w: [n][k] without gaps, at a multiple of 16
// bytes; k is a multiple of 8. bias: n numbers, or null. Only floats are accumulated to.
void GemmFew(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
             F32Rows out, void* workspace, cudaStream_t stream);
void GemmFew(Bf16Rows x, const __nv_bfloat16* w, int64_t n, const float* bias, bool accumulate,
             Bf16Rows out, void* workspace, cudaStream_t stream);

// out = silu(x gate^T) * (x up^T), rounded once. w: gate's rows, then up's, out.cols each;
// out.cols is a multiple of 16.
void GemmFewSwiGlu(Bf16Rows x, const __nv_bfloat16* w, Bf16Rows out, void* workspace,
                   cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_GEMM_FEW_H_
