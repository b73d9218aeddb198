// The default model's greedy text on a CUDA device against the CPU's, for the golden paragraphs.
// Two texts may only part where the CPU's two tokens were as good as equal. And what is drawn from
// the device's summaries of logits is what its whole rows give.
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "glog/logging.h"
#include "gpu_worker/device/cuda/ops_cuda.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/sampler.h"
#include "gtest/gtest.h"
#include "tests/golden/golden.h"

namespace tessera {
namespace {

constexpr int64_t kPromptTokens = 96, kNewTokens = 48;
// How far below the best a token's logit may be on the CPU where the device takes it: products of
// bf16 rows differ by so much (golden_test allows the same).
constexpr float kAsGoodAsEqual = 0.5f;

uint32_t Best(const std::vector<float>& logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// row: the same logits where the device has them, with masses at `temperature`.
void ExpectSameDraws(const LogitsRow& row, const std::vector<float>& logits, float temperature) {
  for (SamplingParams params :
       {SamplingParams{}, SamplingParams{.temperature = temperature},
        SamplingParams{.temperature = temperature, .top_p = 0.9f},
        SamplingParams{.temperature = temperature, .top_k = 50, .top_logprobs = 5}}) {
    for (params.seed = 0; params.seed < 3; ++params.seed) {
      const SampledToken got = Sampler(params).Next(row), want = Sampler(params).Next(logits);
      EXPECT_EQ(got.id, want.id) << "top_p " << params.top_p << " top_k " << params.top_k;
      EXPECT_NEAR(got.logprob, want.logprob, 1e-5);
    }
  }
}

// A prompt's answer, token by token, in blocks of a pool: decode steps are recorded and replayed.
class Answer {
 public:
  Answer(const Decoder* decoder, const std::vector<uint32_t>& prompt)
      : decoder_(*decoder), pool_(decoder->config(), 8, &decoder->memory()), kv_(&pool_) {
    CHECK(kv_.Grow(kPromptTokens + kNewTokens));
    const std::atomic<bool> never = false;
    auto last = decoder_.Extend(kv_, prompt, 0, never);
    CHECK(last.ok());
    const Activations logits = decoder_.Logits(*last);
    logits_.assign(logits->data(), logits->data() + logits->cols);
    tokens_ = static_cast<int64_t>(prompt.size());
  }

  const std::vector<float>& logits() const { return logits_; }
  void Add(uint32_t id) {
    const float temperature = tokens_ % 2 == 0 ? 1.0f : 0.7f;
    const DecodeRow row = {&kv_, id, tokens_++, /*wants_logits=*/true, temperature};
    const DecodedLogits decoded = decoder_.DecodeToSample({&row, 1});
    const absl::Span<const float> all = decoded.Row(0).All();
    logits_.assign(all.begin(), all.end());
    if (decoded.Row(0).summary()) ExpectSameDraws(decoded.Row(0), logits_, temperature);
  }

 private:
  const Decoder& decoder_;
  KvPool pool_;
  KvMemory kv_;
  std::vector<float> logits_;
  int64_t tokens_ = 0;
};

TEST(SameTextTest, OfTwentyParagraphs) {
  const std::string folder = ModelFolder("smollm2-135m-instruct");
  if (folder.empty()) GTEST_SKIP() << "the default model is not in $TESSERA_MODELS";
  auto cuda = MakeCudaOps(0);
  if (!cuda.ok()) GTEST_SKIP() << cuda.status();
  const std::unique_ptr<Ops> cpu = MakeCpuOps(0);
  const auto on_cpu = Decoder::Load(folder, 1024, cpu.get());
  const auto on_device = Decoder::Load(folder, 1024, cuda->get());
  ASSERT_TRUE(on_cpu.ok() && on_device.ok());
  const std::vector<GoldenPrefill> paragraphs = ReadGoldenPrefill();
  ASSERT_EQ(paragraphs.size(), 20u);
  int same = 0;
  for (const GoldenPrefill& paragraph : paragraphs) {
    std::vector<uint32_t> prompt = paragraph.ids;
    prompt.resize(std::min<size_t>(prompt.size(), kPromptTokens));
    Answer expected(on_cpu->get(), prompt), got(on_device->get(), prompt);
    bool parted = false;
    for (int64_t i = 0; i < kNewTokens && !parted; ++i) {
      const uint32_t id = Best(expected.logits()), other = Best(got.logits());
      parted = id != other;
      EXPECT_LE(expected.logits()[id] - expected.logits()[other], kAsGoodAsEqual) << "token " << i;
      expected.Add(id);
      got.Add(other);
    }
    same += !parted;
  }
  std::cout << same << " of 20 texts are the same to the end\n";
  // Most are: a device that is wrong throughout must not pass by small differences.
  EXPECT_GE(same, 14);
}

}  // namespace
}  // namespace tessera
