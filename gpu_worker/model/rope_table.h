// Angles of rotary position embedding, with the scaling kinds that models use.
#ifndef TESSERA_GPU_WORKER_MODEL_ROPE_TABLE_H_
#define TESSERA_GPU_WORKER_MODEL_ROPE_TABLE_H_

#include <cstdint>
#include <vector>

#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/config.h"

namespace tessera {

// head_dim / 2 frequencies in radians a token, scaled by the config's kind: linear (Chen et al.
// 2023), llama3 (Llama 3.1's smoothed bands), yarn (Peng et al. 2023).
std::vector<float> RopeFrequencies(const RopeConfig& rope, int64_t head_dim);

// Factor on cos and sin: 1 but for yarn.
float RopeAttentionFactor(const RopeConfig& rope);

// Table for positions 0 .. positions - 1.
RopeTable MakeRopeTable(const RopeConfig& rope, int64_t head_dim, int64_t positions);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_ROPE_TABLE_H_
