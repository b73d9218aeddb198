#include "gpu_worker/model/weights.h"

#include <algorithm>
#include <initializer_list>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "gpu_worker/device/memory.h"

namespace tessera {
namespace {

// Hands out tensors by name and remembers which were asked for.
class Taker {
 public:
  Taker(const SafeTensors& files, std::deque<std::vector<float>>* vectors)
      : files_(files), vectors_(*vectors) {}

  bool Has(const std::string& name) const { return files_.tensors().contains(name); }

  absl::StatusOr<Weight> Take(const std::string& name, int64_t rows, int64_t cols) {
    ASSIGN_OR_RETURN(const TensorView* view, Find(name, {rows, cols}));
    return Weight{view->data, view->dtype, rows, cols};
  }

  absl::StatusOr<absl::Span<const float>> TakeVector(const std::string& name, int64_t n) {
    ASSIGN_OR_RETURN(const TensorView* view, Find(name, {n}));
    std::vector<float>& numbers = vectors_.emplace_back(n);
    for (int64_t i = 0; i < n; ++i) {
      numbers[i] = view->dtype == DType::kF32
                       ? reinterpret_cast<const float*>(view->data)[i]
                       : ToFloat(reinterpret_cast<const Bf16*>(view->data)[i]);
    }
    return absl::MakeConstSpan(numbers);
  }

  // An empty vector where the model has no such tensor.
  absl::StatusOr<absl::Span<const float>> TakeOptional(const std::string& name, int64_t n) {
    if (!Has(name)) return absl::Span<const float>();
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
  std::deque<std::vector<float>>& vectors_;
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

// Copies weights to a device, those of one group side by side.
class Mover {
 public:
  Mover(DeviceMemory* memory, std::vector<std::shared_ptr<void>>* owners)
      : memory_(*memory), owners_(*owners) {}

  void Move(std::initializer_list<Weight*> group) {
    int64_t bytes = 0;
    for (const Weight* w : group) bytes += w->rows * w->cols * BytesPer(DType::kBf16);
    char* to = New(bytes);
    for (Weight* w : group) {
      const int64_t numbers = w->rows * w->cols;
      memory_.Upload(AsBf16(*w), numbers * BytesPer(DType::kBf16), to);
      *w = {to, DType::kBf16, w->rows, w->cols};
      to += numbers * BytesPer(DType::kBf16);
    }
  }

  void Move(std::initializer_list<absl::Span<const float>*> group) {
    size_t bytes = 0;
    for (const auto* vector : group) bytes += vector->size() * sizeof(float);
    if (bytes == 0) return;
    char* to = New(bytes);
    for (auto* vector : group) {
      memory_.Upload(vector->data(), vector->size() * sizeof(float), to);
      *vector = {reinterpret_cast<const float*>(to), vector->size()};
      to += vector->size() * sizeof(float);
    }
  }

 private:
  char* New(size_t bytes) {
    return static_cast<char*>(owners_.emplace_back(AllocateShared(memory_, bytes)).get());
  }

  const void* AsBf16(const Weight& w) {
    if (w.dtype == DType::kBf16) return w.data;
    narrow_.resize(w.rows * w.cols);
    std::transform(static_cast<const float*>(w.data),
                   static_cast<const float*>(w.data) + narrow_.size(), narrow_.begin(), ToBf16);
    return narrow_.data();
  }

  DeviceMemory& memory_;
  std::vector<std::shared_ptr<void>>& owners_;
  std::vector<Bf16> narrow_;
};

}  // namespace

void PutOnDevice(DeviceMemory& memory, Weights* weights) {
  if (memory.is_host()) return;
  Mover mover(&memory, &weights->on_device);
  const bool tied = weights->head.data == weights->embedding.data;
  mover.Move({&weights->embedding});
  if (tied) {
    weights->head = weights->embedding;
  } else {
    mover.Move({&weights->head});
  }
  mover.Move({&weights->final_norm});
  for (LayerWeights& w : weights->layers) {
    mover.Move({&w.q, &w.k, &w.v});
    mover.Move({&w.o});
    mover.Move({&w.gate, &w.up});
    mover.Move({&w.down});
    mover.Move({&w.input_norm});
    mover.Move({&w.post_attention_norm});
    mover.Move({&w.q_bias, &w.k_bias, &w.v_bias});
    mover.Move({&w.q_norm});
    mover.Move({&w.k_norm});
  }
}

absl::StatusOr<Weights> LoadWeights(const std::string& folder, const ModelConfig& model) {
  Weights weights;
  ASSIGN_OR_RETURN(weights.files, SafeTensors::Open(folder));
  Taker taker(*weights.files, &weights.vectors);
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
