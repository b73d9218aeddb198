// What a sampler reads of rows of logits: see ../logits_summary.h.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_LOGITS_SUMMARY_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_LOGITS_SUMMARY_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu_worker/device/cuda/kernels.h"

namespace tessera::cuda {

constexpr int kMostTopLogits = 256;

// The k largest logits of each row, descending, the smaller id first among equals: values and ids
// [rows][k]; +0 equals -0, and a NaN is less than all numbers. 1 <= k <= min(logits.cols,
// kMostTopLogits).
void TopLogits(F32Rows logits, int k, float* values, int32_t* ids, cudaStream_t stream);

constexpr int kSegment = 1024;

// Of every kSegment columns of a row (of fewer at its end): the largest logit, the sum of
// exp(logit - top), and that of exp((logit - top) / temperatures[row]); -infinity, 0 and 0 where
// all are -infinity. A NaN or +infinity makes the sums NaN. tops, masses, masses_at_temperature:
// [rows][segments]. In double precision, in an order that depends on nothing else.
void SegmentMasses(F32Rows logits, const float* temperatures, float* tops, double* masses,
                   double* masses_at_temperature, cudaStream_t stream);

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_LOGITS_SUMMARY_H_
