#include "gpu_worker/model/config.h"

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "boost/json.hpp"

namespace tessera {
namespace {

namespace json = boost::json;

double NumberOr(const json::object& from, const char* name, double otherwise) {
  const json::value* value = from.if_contains(name);
  if (value == nullptr || !value->is_number()) return otherwise;
  return value->to_number<double>();
}

std::string TextOr(const json::object& from, const char* name, const std::string& otherwise) {
  const json::value* value = from.if_contains(name);
  return value != nullptr && value->is_string() ? std::string(value->as_string()) : otherwise;
}

bool FlagOr(const json::object& from, const char* name, bool otherwise) {
  const json::value* value = from.if_contains(name);
  return value != nullptr && value->is_bool() ? value->as_bool() : otherwise;
}

absl::StatusOr<int64_t> Positive(const json::object& from, const char* name) {
  const double value = NumberOr(from, name, 0);
  if (value < 1 || value > 1e9 || value != static_cast<double>(static_cast<int64_t>(value))) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: ", name, " must be a positive whole number"));
  }
  return static_cast<int64_t>(value);
}

// transformers up to 4 writes rope_theta and rope_scaling, from 5 on both in rope_parameters.
absl::StatusOr<RopeConfig> ParseRope(const json::object& config, int64_t max_positions) {
  const json::value* scaling = config.if_contains("rope_parameters");
  if (scaling == nullptr) scaling = config.if_contains("rope_scaling");
  RopeConfig rope;
  rope.theta = NumberOr(config, "rope_theta", 10000);
  rope.original_max_positions = static_cast<double>(max_positions);
  if (scaling == nullptr || !scaling->is_object()) return rope;
  const json::object& from = scaling->as_object();
  rope.theta = NumberOr(from, "rope_theta", rope.theta);
  rope.kind = TextOr(from, "rope_type", TextOr(from, "type", "default"));
  rope.factor = NumberOr(from, "factor", 1);
  rope.low_freq_factor = NumberOr(from, "low_freq_factor", 1);
  rope.high_freq_factor = NumberOr(from, "high_freq_factor", 4);
  rope.original_max_positions =
      NumberOr(from, "original_max_position_embeddings", rope.original_max_positions);
  rope.beta_fast = NumberOr(from, "beta_fast", 32);
  rope.beta_slow = NumberOr(from, "beta_slow", 1);
  rope.attention_factor = NumberOr(from, "attention_factor", 0);
  rope.mscale = NumberOr(from, "mscale", 0);
  rope.mscale_all_dim = NumberOr(from, "mscale_all_dim", 0);
  rope.truncate = FlagOr(from, "truncate", true);
  if (rope.kind != "default" && rope.kind != "linear" && rope.kind != "llama3" &&
      rope.kind != "yarn") {
    return absl::UnimplementedError(absl::StrCat("config.json: RoPE kind '", rope.kind,
                                                 "' is not supported; default, linear, llama3 and "
                                                 "yarn are"));
  }
  if (!(rope.factor > 0) || !(rope.theta > 0)) {
    return absl::InvalidArgumentError("config.json: RoPE factor and theta must be above 0");
  }
  return rope;
}

void ReadEnds(const json::object& from, std::vector<uint32_t>& ends) {
  const json::value* value = from.if_contains("eos_token_id");
  if (value == nullptr) return;
  std::vector<uint32_t> found;
  auto add = [&](const json::value& v) {
    if (v.is_int64() && v.as_int64() >= 0) found.push_back(static_cast<uint32_t>(v.as_int64()));
  };
  if (value->is_array()) {
    for (const json::value& v : value->as_array()) add(v);
  } else {
    add(*value);
  }
  if (!found.empty()) ends = found;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

absl::Status CheckFamily(const json::object& config, ModelConfig& model) {
  model.family = TextOr(config, "model_type", "");
  if (model.family != "llama" && model.family != "mistral" && model.family != "qwen2" &&
      model.family != "qwen3") {
    return absl::UnimplementedError(absl::StrCat(
        "model family '", model.family,
        "' is not supported; llama, mistral, qwen2 and qwen3 are (model_type in config.json)"));
  }
  const std::string activation = TextOr(config, "hidden_act", "silu");
  if (activation != "silu") {
    return absl::UnimplementedError(
        absl::StrCat("activation '", activation, "' is not supported; silu is"));
  }
  return absl::OkStatus();
}

// A sliding window hides far keys from a query, which a blend does not model: it bounds the length
// instead.
void BoundBySlidingWindow(const json::object& config, ModelConfig& model) {
  const bool in_use = FlagOr(config, "use_sliding_window", model.family == "mistral");
  const auto window = static_cast<int64_t>(NumberOr(config, "sliding_window", 0));
  if (in_use && window > 0) model.max_positions = std::min(model.max_positions, window);
}

}  // namespace

std::string RopeConfig::ToString() const {
  return absl::StrFormat(
      "kind=%s theta=%.17g factor=%.17g low=%.17g high=%.17g original=%.17g fast=%.17g slow=%.17g "
      "attention=%.17g mscale=%.17g mscale_all_dim=%.17g truncate=%d",
      kind, theta, factor, low_freq_factor, high_freq_factor, original_max_positions, beta_fast,
      beta_slow, attention_factor, mscale, mscale_all_dim, truncate);
}

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& text) {
  boost::system::error_code error;
  const json::value parsed = json::parse(text, error);
  if (error || !parsed.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json is not a JSON object: ", error.message()));
  }
  const json::object& config = parsed.as_object();
  ModelConfig model;
  RETURN_IF_ERROR(CheckFamily(config, model));
  ASSIGN_OR_RETURN(model.layers, Positive(config, "num_hidden_layers"));
  ASSIGN_OR_RETURN(model.hidden, Positive(config, "hidden_size"));
  ASSIGN_OR_RETURN(model.intermediate, Positive(config, "intermediate_size"));
  ASSIGN_OR_RETURN(model.heads, Positive(config, "num_attention_heads"));
  ASSIGN_OR_RETURN(model.vocab, Positive(config, "vocab_size"));
  ASSIGN_OR_RETURN(model.max_positions, Positive(config, "max_position_embeddings"));
  model.kv_heads = static_cast<int64_t>(NumberOr(config, "num_key_value_heads", model.heads));
  model.head_dim = static_cast<int64_t>(NumberOr(config, "head_dim", 0));
  if (model.head_dim == 0) model.head_dim = model.hidden / model.heads;
  if (model.kv_heads < 1 || model.heads % model.kv_heads != 0 || model.head_dim < 2 ||
      model.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        "config.json: num_attention_heads must be a multiple of num_key_value_heads, and head_dim "
        "even");
  }
  model.rms_eps = static_cast<float>(NumberOr(config, "rms_norm_eps", 1e-5));
  model.tied_head = FlagOr(config, "tie_word_embeddings", false);
  ASSIGN_OR_RETURN(model.rope, ParseRope(config, model.max_positions));
  BoundBySlidingWindow(config, model);
  const double bos = NumberOr(config, "bos_token_id", -1);
  if (bos >= 0 && bos < static_cast<double>(model.vocab))
    model.bos_token_id = static_cast<int64_t>(bos);
  ReadEnds(config, model.eos_token_ids);
  return model;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(folder + "/config.json"));
  ASSIGN_OR_RETURN(ModelConfig model, ParseModelConfig(text));
  const absl::StatusOr<std::string> generation = ReadFile(folder + "/generation_config.json");
  if (!generation.ok()) return model;
  boost::system::error_code error;
  const json::value parsed = json::parse(*generation, error);
  if (!error && parsed.is_object()) ReadEnds(parsed.as_object(), model.eos_token_ids);
  return model;
}

}  // namespace tessera
