// Ops::Correct on the CPU.
#ifndef TESSERA_GPU_WORKER_DEVICE_CPU_CORRECTION_H_
#define TESSERA_GPU_WORKER_DEVICE_CPU_CORRECTION_H_

#include "absl/types/span.h"
#include "gpu_worker/device/cpu/parallel.h"
#include "gpu_worker/device/ops.h"

namespace tessera {

void CorrectOnCpu(Parallel& parallel, absl::Span<const CorrectionTask> tasks, Matrix fresh_k,
                  Matrix fresh_v, const CorrectionConstants& constants, const RopeTable& rope,
                  const LayerKv& kv);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CPU_CORRECTION_H_
