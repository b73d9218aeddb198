// A decoder of a known model's shape with random weights: for timing, where no model file is
// needed.
#ifndef TESSERA_TESTS_BENCH_WORKER_SHAPE_H_
#define TESSERA_TESTS_BENCH_WORKER_SHAPE_H_

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// Mistral-7B v0.3's, or one small enough for a test of the bench on a CPU.
inline ModelConfig BenchShape(bool small) {
  ModelConfig model;
  model.family = "mistral";
  model.layers = small ? 4 : 32;
  model.hidden = small ? 256 : 4096;
  model.intermediate = small ? 512 : 14336;
  model.heads = small ? 4 : 32;
  model.kv_heads = small ? 2 : 8;
  model.head_dim = small ? 64 : 128;
  model.vocab = small ? 1024 : 32768;
  model.max_positions = 32768;
  model.rope.theta = 1e6;
  model.bos_token_id = 1;
  return model;
}

// Weights N(0, 0.02), which keeps activations as tame as trained ones; all are windows of one run
// of random numbers, so that making 14 GB of them takes no time.
inline std::unique_ptr<Decoder> MakeRandomDecoder(const ModelConfig& model, int64_t max_len,
                                                  Ops* ops) {
  constexpr int64_t kNumbers = int64_t{1} << 22;
  const int64_t widest = std::max(model.vocab, model.intermediate) * model.hidden;
  Weights weights;
  std::vector<float>& memory =  // owns the numbers, two in the place of a float
      weights.vectors.emplace_back((widest + 2 * kNumbers) / 2);
  auto* numbers = reinterpret_cast<Bf16*>(memory.data());
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 0.02f);
  for (int64_t i = 0; i < kNumbers; ++i) numbers[i] = ToBf16(normal(random));
  for (int64_t i = kNumbers; i < widest + kNumbers; ++i) numbers[i] = numbers[i - kNumbers];
  auto make = [&](int64_t rows, int64_t cols) {
    return Weight{numbers + random() % (kNumbers / 64) * 64, DType::kBf16, rows, cols};
  };
  const std::vector<float>& ones = weights.vectors.emplace_back(model.hidden, 1.0f);
  weights.embedding = make(model.vocab, model.hidden);
  weights.head = make(model.vocab, model.hidden);
  weights.final_norm = ones;
  const int64_t q = model.heads * model.head_dim, kv = model.kv_heads * model.head_dim;
  for (int64_t layer = 0; layer < model.layers; ++layer) {
    LayerWeights& w = weights.layers.emplace_back();
    w.q = make(q, model.hidden);
    w.k = make(kv, model.hidden);
    w.v = make(kv, model.hidden);
    w.o = make(model.hidden, q);
    w.gate = make(model.intermediate, model.hidden);
    w.up = make(model.intermediate, model.hidden);
    w.down = make(model.hidden, model.intermediate);
    w.input_norm = w.post_attention_norm = ones;
  }
  return Decoder::Make(model, std::move(weights), max_len, ops);
}

}  // namespace tessera

#endif  // TESSERA_TESTS_BENCH_WORKER_SHAPE_H_
