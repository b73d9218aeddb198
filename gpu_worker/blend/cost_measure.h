// Measures what a device takes for the parts of a prefill.
#ifndef TESSERA_GPU_WORKER_BLEND_COST_MEASURE_H_
#define TESSERA_GPU_WORKER_BLEND_COST_MEASURE_H_

#include "gpu_worker/blend/cost_shape.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// Runs single layers on made-up rows: two lengths give what a pass and what a row take, attention
// of a few rows over many keys, plain and scored, what a pair takes. Each is done a few times and
// the fastest counts. Takes about as long as a prefill of 100 tokens. On the thread that issues
// device work; not while others wait.
CostCoefficients MeasureCosts(const Decoder& decoder);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_COST_MEASURE_H_
