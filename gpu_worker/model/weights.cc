#include "gpu_worker/model/weights.h"

#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

// Hands out tensors by name and remembers which were asked for.
class Taker {
 public:
  explicit Taker(const SafeTensors& files) : files_(files) {}

  bool Has(const std::string& name) const { return files_.tensors().contains(name); }

  absl::StatusOr<Weight> Take(const std::string& name, int64_t rows, int64_t cols) {
    ASSIGN_OR_RETURN(const TensorView* view, Find(name, {rows, cols}));
    return Weight{view->data, view->dtype, rows, cols};
  }

  absl::StatusOr<std::vector<float>> TakeVector(const std::string& name, int64_t n) {
    ASSIGN_OR_RETURN(const TensorView* view, Find(name, {n}));
    std::vector<float> numbers(n);
    for (int64_t i = 0; i < n; ++i) {
      numbers[i] = view->dtype == DType::kF32
                       ? reinterpret_cast<const float*>(view->data)[i]
                       : ToFloat(reinterpret_cast<const Bf16*>(view->data)[i]);
    }
    return numbers;
  }

  // An empty vector where the model has no such tensor.
  absl::StatusOr<std::vector<float>> TakeOptional(const std::string& name, int64_t n) {
    if (!Has(name)) return std::vector<float>();
    return TakeVector(name, n);
  }

  absl::Status CheckAllTaken(bool tied) const {
    for (const auto& [name, view] : files_.tensors()) {
      if (taken_.contains(name) || absl::EndsWith(name, "rotary_emb.inv_freq")) continue;
      if (tied && name == "lm_head.weight") continue;  // some files repeat the embedding
      return absl::UnimplementedError(
          absl::StrCat("the model has a tensor that this worker does not use: ", name));
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<const TensorView*> Find(const std::string& name,
                                         const std::vector<int64_t>& shape) {
    auto found = files_.tensors().find(name);
    if (found == files_.tensors().end()) {
      return absl::InvalidArgumentError(absl::StrCat("the model lacks the tensor ", name));
    }
    if (found->second.shape != shape) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", name, " has shape [", absl::StrJoin(found->second.shape, ", "),
                       "], config.json asks for [", absl::StrJoin(shape, ", "), "]"));
    }
    taken_.insert(name);
    return &found->second;
  }

  const SafeTensors& files_;
  std::set<std::string> taken_;
};

absl::StatusOr<LayerWeights> TakeLayer(Taker& taker, const ModelConfig& model, int64_t layer) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  const int64_t q = model.heads * model.head_dim, kv = model.kv_heads * model.head_dim;
  LayerWeights w;
  ASSIGN_OR_RETURN(w.q, taker.Take(attention + "q_proj.weight", q, model.hidden));
  ASSIGN_OR_RETURN(w.k, taker.Take(attention + "k_proj.weight", kv, model.hidden));
  ASSIGN_OR_RETURN(w.v, taker.Take(attention + "v_proj.weight", kv, model.hidden));
  ASSIGN_OR_RETURN(w.o, taker.Take(attention + "o_proj.weight", model.hidden, q));
  ASSIGN_OR_RETURN(w.gate, taker.Take(mlp + "gate_proj.weight", model.intermediate, model.hidden));
  ASSIGN_OR_RETURN(w.up, taker.Take(mlp + "up_proj.weight", model.intermediate, model.hidden));
  ASSIGN_OR_RETURN(w.down, taker.Take(mlp + "down_proj.weight", model.hidden, model.intermediate));
  ASSIGN_OR_RETURN(w.input_norm, taker.TakeVector(prefix + "input_layernorm.weight", model.hidden));
  ASSIGN_OR_RETURN(w.post_attention_norm,
                   taker.TakeVector(prefix + "post_attention_layernorm.weight", model.hidden));
  ASSIGN_OR_RETURN(w.q_bias, taker.TakeOptional(attention + "q_proj.bias", q));
  ASSIGN_OR_RETURN(w.k_bias, taker.TakeOptional(attention + "k_proj.bias", kv));
  ASSIGN_OR_RETURN(w.v_bias, taker.TakeOptional(attention + "v_proj.bias", kv));
  ASSIGN_OR_RETURN(w.q_norm, taker.TakeOptional(attention + "q_norm.weight", model.head_dim));
  ASSIGN_OR_RETURN(w.k_norm, taker.TakeOptional(attention + "k_norm.weight", model.head_dim));
  return w;
}

}  // namespace

absl::StatusOr<Weights> LoadWeights(const std::string& folder, const ModelConfig& model) {
  Weights weights;
  ASSIGN_OR_RETURN(weights.files, SafeTensors::Open(folder));
  Taker taker(*weights.files);
  ASSIGN_OR_RETURN(weights.embedding,
                   taker.Take("model.embed_tokens.weight", model.vocab, model.hidden));
  weights.head = weights.embedding;
  if (!model.tied_head) {
    ASSIGN_OR_RETURN(weights.head, taker.Take("lm_head.weight", model.vocab, model.hidden));
  }
  ASSIGN_OR_RETURN(weights.final_norm, taker.TakeVector("model.norm.weight", model.hidden));
  for (int64_t layer = 0; layer < model.layers; ++layer) {
    ASSIGN_OR_RETURN(LayerWeights w, TakeLayer(taker, model, layer));
    weights.layers.push_back(std::move(w));
  }
  RETURN_IF_ERROR(taker.CheckAllTaken(model.tied_head));
  return weights;
}

}  // namespace tessera
