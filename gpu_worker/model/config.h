// What config.json of a Hugging Face folder says about a decoder, as plain facts.
#ifndef TESSERA_GPU_WORKER_MODEL_CONFIG_H_
#define TESSERA_GPU_WORKER_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

// How positions become angles. Only the fields of its kind are meant.
struct RopeConfig {
  std::string kind = "default";  // default, linear, llama3, yarn
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1;            // llama3
  double high_freq_factor = 4;           // llama3
  double original_max_positions = 8192;  // llama3, yarn
  double beta_fast = 32;                 // yarn
  double beta_slow = 1;                  // yarn
  double attention_factor = 0;           // yarn; 0: from factor
  double mscale = 0;                     // yarn; 0: not given
  double mscale_all_dim = 0;             // yarn; 0: not given
  bool truncate = true;                  // yarn: round the borders of the ramp

  // Every parameter in one line: part of the layout's fingerprint.
  std::string ToString() const;
};

struct ModelConfig {
  std::string family;  // "llama", "mistral", "qwen2", "qwen3"
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab = 0;
  int64_t max_positions = 0;
  float rms_eps = 1e-5f;
  bool tied_head = false;
  RopeConfig rope;
  int64_t bos_token_id = -1;  // -1: the model has none
  std::vector<uint32_t> eos_token_ids;
};

// Reads `folder`/config.json (and the end tokens of generation_config.json where there is one).
// NOT_FOUND: no such file; INVALID_ARGUMENT: broken JSON or a field that makes no sense;
// UNIMPLEMENTED: a family, RoPE kind or activation that this worker does not compute, by its name.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& folder);

// The same from the text of config.json.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_CONFIG_H_
