// A decoder's weights by role. Which exist is read from the model's files; the layer loop asks, it
// does not know families.
#ifndef TESSERA_GPU_WORKER_MODEL_WEIGHTS_H_
#define TESSERA_GPU_WORKER_MODEL_WEIGHTS_H_

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gpu_worker/device/memory.h"
#include "gpu_worker/device/tensor.h"
#include "gpu_worker/model/config.h"
#include "gpu_worker/model/safetensors.h"

namespace tessera {

struct LayerWeights {
  Weight q, k, v;   // [heads or kv_heads * head_dim][hidden]
  Weight o;         // [hidden][heads * head_dim]
  Weight gate, up;  // [intermediate][hidden]
  Weight down;      // [hidden][intermediate]
  absl::Span<const float> input_norm, post_attention_norm;  // [hidden]
  absl::Span<const float> q_bias, k_bias, v_bias;           // empty where the model has none
  absl::Span<const float> q_norm, k_norm;  // [head_dim], empty where the model has none
};

struct Weights {
  // What the views below point into: the mapped files and numbers read from them, or copies in a
  // device's memory.
  std::unique_ptr<SafeTensors> files;
  std::deque<std::vector<float>> vectors;
  std::vector<std::shared_ptr<void>> on_device;
  Weight embedding;                    // [vocab][hidden]
  Weight head;                         // [vocab][hidden]; the embedding when tied
  absl::Span<const float> final_norm;  // [hidden]
  std::vector<LayerWeights> layers;
};

// Opens a Hugging Face folder. INVALID_ARGUMENT: a tensor is missing or has another shape than the
// config says; UNIMPLEMENTED: the files hold a tensor that this worker would not use, by its name.
absl::StatusOr<Weights> LoadWeights(const std::string& folder, const ModelConfig& model);

// Copies all weights, as bf16, to a device that has memory of its own, and points the views there;
// what reads the same x (Q, K and V; gate and up) lies side by side. Throws std::bad_alloc.
void PutOnDevice(DeviceMemory& memory, Weights* weights);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_WEIGHTS_H_
