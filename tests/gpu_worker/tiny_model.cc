#include "tests/gpu_worker/tiny_model.h"

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "glog/logging.h"
#include "gpu_worker/device/tensor.h"
#include "gpu_worker/model/config.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

uint64_t Fnv1a(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3ull;
  return hash;
}

// Uniform in [-0.5, 0.5), 24 bits.
float MadeUp(uint64_t seed) {
  uint64_t z = seed * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-24f - 0.5f;
}

class Writer {
 public:
  void Add(const std::string& name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (int64_t n : shape) count *= n;
    const bool norm = absl::StrContains(name, "norm");
    const float scale = shape.size() == 2 ? 4.0f / std::sqrt(static_cast<float>(shape[1])) : 0.5f;
    const size_t start = numbers_.size();
    for (int64_t i = 0; i < count; ++i) {
      const float x = MadeUp(Fnv1a(name) + static_cast<uint64_t>(i)) * scale;
      numbers_.push_back(ToBf16(norm ? 1.0f + x : x));
    }
    entries_.push_back(absl::StrCat("\"", name, R"(":{"dtype":"BF16","shape":[)",
                                    absl::StrJoin(shape, ","), R"(],"data_offsets":[)", start * 2,
                                    ",", numbers_.size() * 2, "]}"));
  }

  void Write(const std::string& path) const {
    const std::string header = absl::StrCat("{", absl::StrJoin(entries_, ","), "}");
    std::ofstream file(path, std::ios::binary);
    const uint64_t length = header.size();
    file.write(reinterpret_cast<const char*>(&length), 8);
    file << header;
    file.write(reinterpret_cast<const char*>(numbers_.data()),
               static_cast<std::streamsize>(numbers_.size() * 2));
    CHECK(file.good()) << path;
  }

 private:
  std::vector<std::string> entries_;
  std::vector<Bf16> numbers_;
};

}  // namespace

std::string TinyLlamaConfig() {
  return R"({"model_type": "llama", "hidden_act": "silu", "num_hidden_layers": 3, "hidden_size": 64,
"intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
"max_position_embeddings": 512, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
"tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2})";
}

void WriteTinyModel(const std::string& config_json, const std::string& folder) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << config_json;
  const absl::StatusOr<ModelConfig> parsed = ParseModelConfig(config_json);
  CHECK(parsed.ok()) << parsed.status();
  const ModelConfig& model = *parsed;
  const int64_t q = model.heads * model.head_dim, kv = model.kv_heads * model.head_dim;
  Writer writer;
  writer.Add("model.embed_tokens.weight", {model.vocab, model.hidden});
  writer.Add("model.norm.weight", {model.hidden});
  if (!model.tied_head) writer.Add("lm_head.weight", {model.vocab, model.hidden});
  for (int64_t layer = 0; layer < model.layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    writer.Add(prefix + "input_layernorm.weight", {model.hidden});
    writer.Add(prefix + "post_attention_layernorm.weight", {model.hidden});
    for (const auto& [name, rows] : {std::pair("q", q), std::pair("k", kv), std::pair("v", kv)}) {
      writer.Add(absl::StrCat(attention, name, "_proj.weight"), {rows, model.hidden});
      if (model.family == "qwen2") writer.Add(absl::StrCat(attention, name, "_proj.bias"), {rows});
    }
    writer.Add(attention + "o_proj.weight", {model.hidden, q});
    if (model.family == "qwen3") {
      writer.Add(attention + "q_norm.weight", {model.head_dim});
      writer.Add(attention + "k_norm.weight", {model.head_dim});
    }
    writer.Add(mlp + "gate_proj.weight", {model.intermediate, model.hidden});
    writer.Add(mlp + "up_proj.weight", {model.intermediate, model.hidden});
    writer.Add(mlp + "down_proj.weight", {model.hidden, model.intermediate});
  }
  writer.Write(folder + "/model.safetensors");
}

std::string TestFolder(const std::string& name) {
  const std::string folder = absl::StrCat(::testing::TempDir(), "/", name);
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

}  // namespace tessera
