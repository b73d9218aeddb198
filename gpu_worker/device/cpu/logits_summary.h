// What a sampler reads of rows of logits, on the CPU.
#ifndef TESSERA_GPU_WORKER_DEVICE_CPU_LOGITS_SUMMARY_H_
#define TESSERA_GPU_WORKER_DEVICE_CPU_LOGITS_SUMMARY_H_

#include "gpu_worker/device/cpu/parallel.h"
#include "gpu_worker/device/logits_summary.h"
#include "gpu_worker/device/tensor.h"

namespace tessera {

// See Ops::SummarizeLogits.
void SummarizeLogitsOnCpu(Parallel& parallel, Matrix logits, const float* temperatures,
                          const LogitsSummaries& out);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CPU_LOGITS_SUMMARY_H_
