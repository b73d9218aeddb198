// The KV of one request: every layer's rotated K and V for positions 0 .. capacity - 1.
#ifndef TESSERA_GPU_WORKER_MODEL_KV_MEMORY_H_
#define TESSERA_GPU_WORKER_MODEL_KV_MEMORY_H_

#include <cstdint>
#include <memory>

#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/config.h"

namespace tessera {

// Moves, never copies. Memory is not cleared: a slot has meaning once something was written to it.
class KvMemory {
 public:
  KvMemory() = default;
  KvMemory(const ModelConfig& model, int64_t capacity)
      : capacity_(capacity),
        kv_heads_(model.kv_heads),
        head_dim_(model.head_dim),
        numbers_(new float[model.layers * 2 * PerLayer()]) {}

  LayerKv Layer(int64_t layer) const {
    float* k = numbers_.get() + layer * 2 * PerLayer();
    return {k, k + PerLayer(), capacity_, kv_heads_, head_dim_};
  }

  int64_t capacity() const { return capacity_; }

  static int64_t BytesPerToken(const ModelConfig& model) {
    return model.layers * 2 * model.kv_heads * model.head_dim * static_cast<int64_t>(sizeof(float));
  }

 private:
  int64_t PerLayer() const { return capacity_ * kv_heads_ * head_dim_; }

  int64_t capacity_ = 0;
  int64_t kv_heads_ = 0;
  int64_t head_dim_ = 0;
  std::unique_ptr<float[]> numbers_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_KV_MEMORY_H_
