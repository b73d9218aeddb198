// Matrices and KV memory of the operations' interface as kernels take them.
#ifndef TESSERA_GPU_WORKER_DEVICE_CUDA_VIEWS_H_
#define TESSERA_GPU_WORKER_DEVICE_CUDA_VIEWS_H_

#include "glog/logging.h"
#include "gpu_worker/device/cuda/kernels.h"
#include "gpu_worker/device/ops.h"

namespace tessera::cuda {

inline Bf16Rows Bf16Of(const Matrix& x) {
  CHECK(x.dtype == DType::kBf16);
  return {static_cast<__nv_bfloat16*>(x.memory), x.rows, x.cols, x.step()};
}

inline F32Rows F32Of(const Matrix& x) {
  CHECK(x.dtype == DType::kF32);
  return {static_cast<float*>(x.memory), x.rows, x.cols, x.step()};
}

inline const __nv_bfloat16* NumbersOf(const Weight& w) {
  CHECK(w.dtype == DType::kBf16);
  return static_cast<const __nv_bfloat16*>(w.data);
}

inline KvView ViewOf(const LayerKv& kv) {
  // With host blocks there must be the device's; with neither it is a stretch, or a whole pool.
  CHECK(kv.blocks == nullptr || kv.device_blocks != nullptr);
  return {static_cast<__nv_bfloat16*>(kv.k),
          static_cast<__nv_bfloat16*>(kv.v),
          kv.device_blocks,
          kv.pool_slots > 0 ? kv.pool_slots : kv.capacity,
          static_cast<int>(kv.kv_heads),
          static_cast<int>(kv.head_dim)};
}

inline Slice SliceOf(const SliceView& slice, int64_t first) {
  return {reinterpret_cast<const __nv_bfloat16*>(slice.k),
          reinterpret_cast<const __nv_bfloat16*>(slice.v), static_cast<int32_t>(slice.tokens),
          static_cast<int32_t>(first)};
}

}  // namespace tessera::cuda

#endif  // TESSERA_GPU_WORKER_DEVICE_CUDA_VIEWS_H_
