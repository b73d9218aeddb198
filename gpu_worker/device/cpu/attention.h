// Attention on the CPU: tiles of queries over tiles of keys, every query row with its own position.
#ifndef TESSERA_GPU_WORKER_DEVICE_CPU_ATTENTION_H_
#define TESSERA_GPU_WORKER_DEVICE_CPU_ATTENTION_H_

#include "absl/types/span.h"
#include "gpu_worker/device/cpu/parallel.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/device/tensor.h"

namespace tessera {

// Ops::Attend.
void AttendOnCpu(Parallel& parallel, Matrix q, absl::Span<const int32_t> positions,
                 const LayerKv& kv, Matrix out);

// Ops::AttendScored.
void AttendScoredOnCpu(Parallel& parallel, Matrix q, absl::Span<const int32_t> positions,
                       const LayerKv& kv, bool by_value_norm, Matrix out, absl::Span<float> scores);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CPU_ATTENTION_H_
