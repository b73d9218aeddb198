// Blends of the default model against an independent PyTorch statement of them:
// tests/golden/make_golden.py.
#include "tests/golden/golden.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/blend/blender.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/server_fixture.h"
#include "tests/gpu_worker/test_device.h"

namespace tessera {
namespace {

constexpr size_t kNewTokens = 32;

SinkKind SinkOf(const std::string& name) {
  return name == "lead" ? SinkKind::kLead : name == "bos" ? SinkKind::kBos : SinkKind::kNone;
}

// Golden rows that were not picked.
size_t Missed(const std::vector<int32_t>& golden, const std::vector<int32_t>& got) {
  std::vector<int32_t> missed;
  std::set_difference(golden.begin(), golden.end(), got.begin(), got.end(),
                      std::back_inserter(missed));
  return missed.size();
}

// Largest difference over the golden row's likeliest tokens.
double Difference(const TopLogits& golden, const std::vector<float>& logits) {
  double most = 0;
  for (size_t i = 0; i < golden.ids.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(golden.logits[i]) - logits[golden.ids[i]]));
  }
  return most;
}

// With a real cache, so that a prompt's chunks are computed once for all policies.
class BlendGoldenTest : public testing::ServerFixture {
 protected:
  void SetUp() override {
    const std::string folder = ModelFolder("smollm2-135m-instruct");
    if (folder.empty()) GTEST_SKIP() << "the default model is not in $TESSERA_MODELS";
    auto decoder = Decoder::Load(folder, 2048, ops_.get());
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = std::move(*decoder);
    StartServer();
    auto client = MakeCacheClient({.address = address()});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  // Decodes along the golden tokens. How far, at worst, the golden token's logit was below the
  // best: 0 means that a greedy decode gives the golden text.
  double GreedyGap(Prefilled& prefilled, const std::vector<uint32_t>& golden) {
    const uint32_t end = decoder_->config().eos_token_ids[0];
    std::vector<float> logits = prefilled.logits;
    double worst = 0;
    for (size_t i = 0;; ++i) {
      const uint32_t id = i < golden.size() ? golden[i] : end;
      const float best = *std::max_element(logits.begin(), logits.end());
      worst = std::max(worst, static_cast<double>(best - logits[id]));
      if (id == end || i + 1 == kNewTokens) return worst;
      const std::vector<uint32_t> one = {id};
      auto last = decoder_->Extend(prefilled.kv, one, prefilled.tokens + static_cast<int64_t>(i),
                                   never_.value());
      EXPECT_TRUE(last.ok());
      const Activations next = decoder_->Logits(*last);
      logits.assign(next->data(), next->data() + next->cols);
    }
  }

  const CancelFlag never_;
  const std::unique_ptr<Ops> ops_ = TestDevice(0);
  std::unique_ptr<CacheClient> client_;
  std::unique_ptr<Decoder> decoder_;
};

TEST_F(BlendGoldenTest, EveryPolicyAgreesWithTheReference) {
  const double close = ops_->name() == "cpu-f32" ? 0.05 : 0.5;
  // Where activations are bf16 too, more scores are as good as equal.
  const bool narrow = decoder_->memory().activation_type() == DType::kBf16;
  auto most_missed = [narrow](size_t rows) {
    return narrow ? std::max<size_t>(3, rows / 20) : std::max<size_t>(1, rows / 50);
  };
  const std::vector<GoldenPrompt> prompts = ReadGoldenBlend();
  ASSERT_GE(prompts.size(), 10u);
  int blends = 0, same_text = 0;
  size_t rows = 0, missed_rows = 0;
  double worst = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    BlendConfig config;
    config.sink = SinkOf(prompts[i].sink);
    Blender blender(decoder_.get(), client_.get(), ChunkKey(), config);
    for (const GoldenBlend& golden : prompts[i].blends) {
      SCOPED_TRACE("prompt " + std::to_string(i) + " " + golden.policy +
                   (golden.correction ? "+c" : ""));
      BlendRequest request;
      request.segments = prompts[i].segments;
      request.policy = *SelectionPolicy::Parse(golden.policy);
      request.recompute_ratio = golden.ratio;
      request.correction = golden.correction;
      request.max_new_tokens = kNewTokens;
      auto done = blender.Prefill(request, never_);
      ASSERT_TRUE(done.ok()) << done.status();
      client_->Store(SourcesOf(done->fresh, config.tokens_per_piece), absl::Seconds(60));
      // Chunks are bf16: where two rows' scores are as good as equal, the other may win. In a sum
      // with the first rows that one may be there already.
      if (golden.policy.find('+') == std::string::npos) {
        EXPECT_EQ(golden.picked.size(), done->picked.size());
      }
      const size_t missed =
          std::max(Missed(golden.picked, done->picked), Missed(done->picked, golden.picked));
      EXPECT_LE(missed, most_missed(golden.picked.size()));
      rows += golden.picked.size();
      missed_rows += missed;
      const double difference = Difference(golden.top, done->logits);
      const double tolerance = missed == 0 ? close : 0.5;
      EXPECT_LT(difference, tolerance);
      worst = std::max(worst, difference);
      ++blends;
      // Two texts may only part where two tokens were as good as equal.
      const double gap = GreedyGap(*done, golden.greedy);
      EXPECT_LT(gap, tolerance);
      same_text += gap == 0;
    }
  }
  if (ops_->name() == "cpu-f32") {
    EXPECT_GE(same_text, 0.95 * blends);
  }
  EXPECT_LE(missed_rows, rows / 50);
  std::cout << blends << " blends, " << missed_rows << " of " << rows
            << " rows chosen otherwise, worst logit difference " << worst << ", same greedy tokens "
            << same_text << "\n";
}

}  // namespace
}  // namespace tessera
