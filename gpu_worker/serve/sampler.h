// The next token from a row of logits.
//
// In this order:
//   1. logit_bias is added
//   2. the penalties: repetition (Keskar et al. 2019, section 4.1; of prompt and answer), then
//      frequency and presence (OpenAI's definition; of the answer)
//   3. masked tokens get no chance while fewer than min_tokens were drawn
//   4. greedy: the largest. Otherwise all is divided by the temperature
//   5. top_k: the k likeliest stay
//   6. top_p (Holtzman et al. 2020): of these the shortest run of likeliest ones that reaches top_p
//      of their mass
//   7. min_p (Nguyen et al. 2024): of these the ones at least min_p times as likely as the
//   likeliest
//   8. one is drawn by its share
// The answer's first tokens may be forced instead (teacher forcing): for them none of this is done.
// 1 to 3 are vLLM's order (vllm/v1/sample/sampler.py: logits processors, penalties, then sample); 4
// to 7 are Hugging Face's (transformers/generation/utils.py, _get_logits_processor: temperature,
// top_k, top_p, min_p). Where vLLM applies min_p before top_p, the same tokens stay unless min_p
// cuts so much that top_p of what is left cuts again.
#ifndef TESSERA_GPU_WORKER_SERVE_SAMPLER_H_
#define TESSERA_GPU_WORKER_SERVE_SAMPLER_H_

#include <cstdint>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "gpu_worker/model/step_logits.h"
#include "gpu_worker/serve/logprobs.h"

namespace tessera {

// Ids are below the vocabulary's size, but for masked ones.
struct SamplingParams {
  float temperature = 0;  // 0: greedy
  float top_p = 1;        // (0, 1]
  uint32_t top_k = 0;     // 0: all
  float min_p = 0;        // [0, 1]; 0: all
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float repetition_penalty = 1;                        // above 0
  std::vector<std::pair<uint32_t, float>> logit_bias;  // each id once
  uint32_t min_tokens = 0;
  std::vector<uint32_t> masked_tokens;  // for as long as min_tokens says
  uint32_t top_logprobs = 0;            // reported beside each token
  std::vector<uint32_t> forced;         // the first tokens, instead of drawn ones
  uint64_t seed = 0;
};

// Logprobs are of the logits as they were given, before all of the steps above.
struct SampledToken {
  uint32_t id = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top;  // top_logprobs of them, likeliest first
};

struct TokenLogit {
  uint32_t id = 0;
  float logit = 0;
};

// One per answer: the n-th token depends on the seed and on what was drawn before, never on other
// requests. Not thread-safe.
class Sampler {
 public:
  // prompt: the tokens before the answer, for the repetition penalty.
  explicit Sampler(const SamplingParams& params,
                   absl::Span<const std::vector<uint32_t>> prompt = {});

  // The first params.forced.size() tokens are those, and take nothing from the seed. Otherwise
  // equal logits go to the lower id. The row is read a few times and never sorted as a whole.
  SampledToken Next(absl::Span<const float> logits);
  // The same token of a row that may lie on a device: what its summary says is read alone where
  // that proves which token it is, and the whole row otherwise. Logprobs differ in their last bits.
  SampledToken Next(const LogitsRow& row);

 private:
  bool penalizes_answer() const;
  uint32_t Choose(absl::Span<const float> logits);
  // Whether step 3 has something to do.
  bool masks() const { return drawn_ < params_.min_tokens && !params_.masked_tokens.empty(); }
  // Whether all tokens stay after steps 5 to 7.
  bool keeps_all() const { return params_.top_k == 0 && params_.top_p >= 1 && params_.min_p <= 0; }
  // Steps 1 to 3; the row itself when there is nothing to do.
  absl::Span<const float> Adjust(absl::Span<const float> logits);
  uint32_t Draw(absl::Span<const float> logits);
  // The tokens that stay after steps 5 to 7 and their weights, likeliest first.
  void Truncate(absl::Span<const float> logits, float top);
  // The next likeliest token stays; false: it does not, nor does any after it. mass: that top_p is
  // a share of.
  bool Keep(uint32_t id, double weight, double mass);
  void KeepNone();
  // Draws one of weights_: which.
  size_t DrawByWeight();
  double WeightOf(float logit, float top) const;
  // A number in [0, 1) made from 53 bits: the same on every machine, as the standard's
  // distributions are not.
  double Uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

  // With a summary (sampler_summary.cc); none: it does not say, and nothing has changed.
  std::optional<SampledToken> NextOfSummary(const LogitsRow& row);
  std::optional<TokenLogit> ChooseOfSummary(const LogitsRow& row);
  std::optional<TokenLogit> DrawFromSegments(const LogitsRow& row);
  bool TruncateSummary(const LogitsSummary& summary);

  const SamplingParams params_;
  std::mt19937_64 random_;
  uint32_t drawn_ = 0;
  // Tokens that a penalty touches, with how often the answer has them; 0: only the prompt does.
  absl::flat_hash_map<uint32_t, uint32_t> seen_;
  // Kept between calls for their memory.
  std::vector<float> adjusted_;
  std::vector<uint32_t> ids_;
  std::vector<double> weights_;
  double reached_ = 0;  // together, after Keep
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_SERVE_SAMPLER_H_
