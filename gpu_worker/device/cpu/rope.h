// One head's rotation, shared by the ops that rotate.
#ifndef TESSERA_GPU_WORKER_DEVICE_CPU_ROPE_H_
#define TESSERA_GPU_WORKER_DEVICE_CPU_ROPE_H_

#include <cstdint>

#include "gpu_worker/device/ops.h"

namespace tessera {

// Rotates x [head_dim] to `position`, in place; pairs are (j, j + head_dim / 2).
inline void RotateHead(const RopeTable& rope, int64_t position, float* x) {
  const float* cos = rope.cos.data() + position * rope.half_dim;
  const float* sin = rope.sin.data() + position * rope.half_dim;
  for (int64_t j = 0; j < rope.half_dim; ++j) {
    const float a = x[j], b = x[j + rope.half_dim];
    x[j] = a * cos[j] - b * sin[j];
    x[j + rope.half_dim] = b * cos[j] + a * sin[j];
  }
}

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CPU_ROPE_H_
