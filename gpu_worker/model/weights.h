// A decoder's weights by role. Which exist is read from the model's files; the layer loop asks, it
// does not know families.
#ifndef TESSERA_GPU_WORKER_MODEL_WEIGHTS_H_
#define TESSERA_GPU_WORKER_MODEL_WEIGHTS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/tensor.h"
#include "gpu_worker/model/config.h"
#include "gpu_worker/model/safetensors.h"

namespace tessera {

struct LayerWeights {
  Weight q, k, v;                                      // [heads or kv_heads * head_dim][hidden]
  Weight o;                                            // [hidden][heads * head_dim]
  Weight gate, up;                                     // [intermediate][hidden]
  Weight down;                                         // [hidden][intermediate]
  std::vector<float> input_norm, post_attention_norm;  // [hidden]
  std::vector<float> q_bias, k_bias, v_bias;           // empty where the model has none
  std::vector<float> q_norm, k_norm;                   // [head_dim], empty where the model has none
};

struct Weights {
  std::unique_ptr<SafeTensors> files;  // what the views below point into
  Weight embedding;                    // [vocab][hidden]
  Weight head;                         // [vocab][hidden]; the embedding when tied
  std::vector<float> final_norm;       // [hidden]
  std::vector<LayerWeights> layers;
};

// Opens a Hugging Face folder. INVALID_ARGUMENT: a tensor is missing or has another shape than the
// config says; UNIMPLEMENTED: the files hold a tensor that this worker would not use, by its name.
absl::StatusOr<Weights> LoadWeights(const std::string& folder, const ModelConfig& model);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_WEIGHTS_H_
