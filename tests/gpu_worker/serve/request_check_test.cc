#include "gpu_worker/serve/request_check.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using worker::v1::GenerateRequest;
using worker::v1::PrefillChunkRequest;

constexpr int64_t kMaxLen = 64;

ModelConfig Model() {
  ModelConfig model;
  model.vocab = 100;
  model.eos_token_ids = {2};
  return model;
}

GenerateRequest Small() {
  GenerateRequest request;
  for (uint32_t id : {5, 6, 7}) request.add_segments()->add_token_ids(id);
  request.set_max_tokens(10);
  return request;
}

absl::StatusOr<std::unique_ptr<Generation>> Check(const GenerateRequest& request) {
  return CheckRequest(request, Model(), kMaxLen, BlendConfig(), /*blend_enabled=*/true);
}

// That `change` is refused with an error that names the field.
void ExpectRefused(const std::string& word, const std::function<void(GenerateRequest&)>& change) {
  GenerateRequest request = Small();
  change(request);
  const absl::Status status = Check(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << word;
  EXPECT_TRUE(absl::StrContains(status.message(), word)) << status;
}

TEST(RequestCheckTest, TakesWhatIsInRange) {
  GenerateRequest request = Small();
  request.set_n(128);
  request.set_top_logprobs(16384);
  request.set_prompt_logprobs(20);
  request.set_priority(-7);
  request.add_stop_token_ids(99);
  for (uint32_t id : {99, 2, 5}) request.add_forced_token_ids(id);
  auto& sampling = *request.mutable_sampling();
  sampling.set_min_p(1);
  sampling.set_presence_penalty(-2);
  sampling.set_frequency_penalty(2);
  sampling.set_repetition_penalty(0.1f);
  sampling.set_min_tokens(10);
  sampling.set_seed(9);
  (*sampling.mutable_logit_bias())[99] = -100;
  const auto checked = Check(request);
  ASSERT_TRUE(checked.ok()) << checked.status();
  const Generation& generation = **checked;
  EXPECT_EQ(generation.answers, 128u);
  EXPECT_EQ(generation.prompt_logprobs, 20u);
  EXPECT_TRUE(generation.prompt.exact);
  EXPECT_EQ(generation.priority, -7);
  EXPECT_EQ(generation.end_tokens, (std::vector<uint32_t>{99, 2}));
  EXPECT_EQ(generation.sampling.masked_tokens, (std::vector<uint32_t>{99, 2}));
  EXPECT_EQ(generation.sampling.top_logprobs, 16384u);
  EXPECT_EQ(generation.sampling.forced, (std::vector<uint32_t>{99, 2, 5}));
  EXPECT_EQ(generation.sampling.min_p, 1);
  EXPECT_EQ(generation.sampling.presence_penalty, -2);
  EXPECT_EQ(generation.sampling.frequency_penalty, 2);
  EXPECT_EQ(generation.sampling.repetition_penalty, 0.1f);
  EXPECT_EQ(generation.sampling.min_tokens, 10u);
  EXPECT_EQ(generation.sampling.seed, 9u);
  ASSERT_EQ(generation.sampling.logit_bias.size(), 1u);
  EXPECT_EQ(generation.sampling.logit_bias[0].second, -100);
}

TEST(RequestCheckTest, OnlyAutoLeavesTheChoiceOpen) {
  for (bool by_cost : {true, false}) {
    BlendConfig defaults;
    defaults.choose_by_cost = by_cost;
    for (const auto& [mode, open] : {std::pair(worker::v1::BLEND_MODE_UNSPECIFIED, true),
                                     {worker::v1::AUTO, true},
                                     {worker::v1::BLEND, false}}) {
      GenerateRequest request = Small();
      request.mutable_blend()->set_mode(mode);
      const auto checked = CheckRequest(request, Model(), kMaxLen, defaults, true);
      ASSERT_TRUE(checked.ok()) << checked.status();
      EXPECT_EQ((*checked)->prompt.choose, open && by_cost) << mode;
      EXPECT_FALSE((*checked)->prompt.exact);
    }
    for (const auto mode : {worker::v1::EXACT, worker::v1::OFF}) {
      GenerateRequest request = Small();
      request.mutable_blend()->set_mode(mode);
      EXPECT_TRUE((*CheckRequest(request, Model(), kMaxLen, defaults, true))->prompt.exact);
    }
  }
}

TEST(RequestCheckTest, AbsentMeansOff) {
  const auto checked = Check(Small());
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ((*checked)->answers, 1u);
  EXPECT_FALSE((*checked)->prompt_logprobs.has_value());
  EXPECT_FALSE((*checked)->prompt.exact);
  EXPECT_TRUE((*checked)->prompt.store);
  EXPECT_EQ((*checked)->sampling.repetition_penalty, 1);
  EXPECT_EQ((*checked)->sampling.top_p, 1);
}

TEST(RequestCheckTest, IgnoredEndTokensAreStillMasked) {
  GenerateRequest request = Small();
  request.set_ignore_eos(true);
  request.mutable_sampling()->set_min_tokens(1);
  const auto checked = Check(request);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_TRUE((*checked)->end_tokens.empty());
  EXPECT_EQ((*checked)->sampling.masked_tokens, std::vector<uint32_t>{2});
}

TEST(RequestCheckTest, RefusesWhatIsOutOfRangeByField) {
  ExpectRefused("n is 129", [](auto& r) { r.set_n(129); });
  ExpectRefused("top_logprobs", [](auto& r) { r.set_top_logprobs(16385); });
  ExpectRefused("prompt_logprobs", [](auto& r) { r.set_prompt_logprobs(21); });
  ExpectRefused("stop_token_ids", [](auto& r) { r.add_stop_token_ids(100); });
  ExpectRefused("stop_token_ids", [](auto& r) {
    for (int i = 0; i < 1025; ++i) r.add_stop_token_ids(1);
  });
  ExpectRefused("forced_token_ids: token id 100", [](auto& r) { r.add_forced_token_ids(100); });
  ExpectRefused("forced_token_ids has 11 tokens, but the answer may have 10", [](auto& r) {
    for (int i = 0; i < 11; ++i) r.add_forced_token_ids(5);
  });
  ExpectRefused("blend.mode", [](auto& r) {
    r.mutable_blend()->set_mode(static_cast<worker::v1::BlendMode>(9));
  });
  ExpectRefused("min_tokens", [](auto& r) { r.mutable_sampling()->set_min_tokens(11); });
  ExpectRefused("logit_bias",
                [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[100] = 1; });
  ExpectRefused("logit_bias of token 5",
                [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[5] = 101; });
  ExpectRefused("logit_bias has 1025", [](auto& r) {
    for (uint32_t i = 0; i < 1025; ++i) (*r.mutable_sampling()->mutable_logit_bias())[i] = 1;
  });
}

TEST(RequestCheckTest, RefusesNumbersThatAreNone) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), -3.0f}) {
    ExpectRefused("temperature", [&](auto& r) { r.mutable_sampling()->set_temperature(bad); });
    ExpectRefused("top_p", [&](auto& r) { r.mutable_sampling()->set_top_p(bad); });
    ExpectRefused("min_p", [&](auto& r) { r.mutable_sampling()->set_min_p(bad); });
    ExpectRefused("presence_penalty",
                  [&](auto& r) { r.mutable_sampling()->set_presence_penalty(bad); });
    ExpectRefused("frequency_penalty",
                  [&](auto& r) { r.mutable_sampling()->set_frequency_penalty(bad); });
    ExpectRefused("repetition_penalty",
                  [&](auto& r) { r.mutable_sampling()->set_repetition_penalty(bad); });
  }
  ExpectRefused("logit_bias",
                [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[5] = std::nanf(""); });
}

TEST(RequestCheckTest, ChunksAreRefusedByField) {
  auto refused = [](const PrefillChunkRequest& request, const std::string& word) {
    const absl::Status status = CheckRequest(request, Model(), kMaxLen).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << word;
    EXPECT_TRUE(absl::StrContains(status.message(), word)) << status;
  };
  PrefillChunkRequest request;
  refused(request, "segment is empty");
  for (int i = 0; i < kMaxLen - 1; ++i) request.mutable_segment()->add_token_ids(5);
  EXPECT_TRUE(CheckRequest(request, Model(), kMaxLen).ok());
  request.mutable_segment()->add_token_ids(5);
  refused(request, "segment has 64 tokens, but a chunk may have 63");
  request.mutable_segment()->mutable_token_ids()->Truncate(3);
  request.mutable_segment()->add_token_ids(100);
  refused(request, "segment: token id 100");
}

}  // namespace
}  // namespace tessera
