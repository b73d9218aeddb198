// Selection: the best rows of a list, and the best tokens of rows of logits.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_TOP_K_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_TOP_K_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

// In all of these +0 equals -0 and a NaN is less than all numbers.

// picked = the k candidates (row numbers, each once, in any order) with the largest scores[row],
// ascending; among equal scores the earlier row goes first. k <= count. One block does it: for
// lists of a hundred thousand rows at most; ascending candidates take the least time.
void TopK(const float* scores, const int32_t* candidates, int64_t count, int64_t k, int32_t* picked,
          void* workspace, size_t workspace_bytes, cudaStream_t stream);

// Bytes; the workspace begins at a multiple of 16 bytes.
size_t TopKWorkspace(int64_t count, int64_t k);

// ids[r] = where row r of logits is largest, the smaller id among equals; values[r] = what is there
// (values may be null).
void ArgMaxRows(F32Rows logits, int32_t* ids, float* values, cudaStream_t stream);

constexpr int kMostTopLogits = 256;

// The k largest logits of each row, descending, the smaller id first among equals: values and ids
// [rows][k]; and log_sum_exp[rows], the natural logarithm of the sum over the row of exp(logit).
// 1 <= k <= min(logits.cols, kMostTopLogits).
void TopLogits(F32Rows logits, int k, float* values, int32_t* ids, float* log_sum_exp,
               cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_TOP_K_H_
