// A row of logits on a device gives the token that it gives in the program's memory, and as a rule
// little of it is brought.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "gpu_worker/model/step_logits.h"
#include "gpu_worker/serve/sampler.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/far_device.h"

namespace tessera {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<float> NormalRow(size_t vocab, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> row(vocab);
  for (float& x : row) x = normal(random);
  return row;
}

// A few likely tokens stand out, as in a model's rows.
std::vector<float> PeakedRow(size_t vocab, uint32_t seed) {
  std::vector<float> row = NormalRow(vocab, 1, seed);
  for (uint32_t i = 0; i < 20; ++i) row[(seed * 31 + i * 977) % vocab] = 12 + 0.3f * i;
  return row;
}

// Equal logits everywhere, zeros of both signs, some masked.
std::vector<float> TiedRow(size_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> row(vocab);
  for (float& x : row) {
    x = static_cast<float>(random() % 7) - 3;
    if (x == 0 && random() % 2 == 0) x = -0.0f;
    if (random() % 3 == 0) x = -kInfinity;
  }
  return row;
}

// The same rows on a device and here.
class SummaryTest : public ::testing::Test {
 protected:
  // What `params` draw of the rows, one after the other, by both ways. Gives the bytes that came
  // from the device beside the summaries.
  size_t ExpectSameDraws(const SamplingParams& params,
                         const std::vector<std::vector<float>>& rows) {
    const auto vocab = static_cast<int64_t>(rows[0].size());
    const StepLogits step = Put(rows, params.temperature);
    std::vector<int32_t> wanted;
    for (size_t r = 0; r < rows.size(); ++r) wanted.push_back(static_cast<int32_t>(r));
    const DecodedLogits decoded(step, wanted);
    const size_t before = memory_.downloaded_bytes();
    Sampler here(params), there(params);
    for (size_t r = 0; r < rows.size(); ++r) {
      const SampledToken want = here.Next(rows[r]);
      const SampledToken got = there.Next(decoded.Row(static_cast<int64_t>(r)));
      EXPECT_EQ(got.id, want.id) << "row " << r << " of " << vocab;
      ExpectSameLogprob(got.logprob, want.logprob);
      EXPECT_EQ(got.top.size(), want.top.size());
      for (size_t i = 0; i < std::min(got.top.size(), want.top.size()); ++i) {
        EXPECT_EQ(got.top[i].id, want.top[i].id);
        ExpectSameLogprob(got.top[i].logprob, want.top[i].logprob);
      }
      if (HasFailure()) break;
    }
    return memory_.downloaded_bytes() - before;
  }

 private:
  StepLogits Put(const std::vector<std::vector<float>>& rows, float temperature) {
    const size_t vocab = rows[0].size();
    StepLogits step(memory_, static_cast<int64_t>(rows.size()), static_cast<int64_t>(vocab));
    for (size_t r = 0; r < rows.size(); ++r) {
      memory_.Upload(rows[r].data(), vocab * sizeof(float),
                     step.logits()->Row(static_cast<int64_t>(r)));
    }
    step.SetTemperatures(std::vector<float>(rows.size(), temperature));
    step.Summarize(ops_);
    return step;
  }
  // A float's last bits: the sum is made in another order.
  static void ExpectSameLogprob(float got, float want) {
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got));
    } else if (std::isinf(want)) {
      EXPECT_EQ(got, want);
    } else {
      EXPECT_NEAR(got, want, 1e-6 * std::max(1.0f, std::abs(want)));
    }
  }

  FarMemory memory_;
  FarOps ops_{&memory_};
};

const std::vector<SamplingParams>& AllKinds() {
  static const auto* const kinds = new std::vector<SamplingParams>{
      {},
      {.top_logprobs = 20},
      {.top_logprobs = 300},
      {.temperature = 1},
      {.temperature = 1, .top_logprobs = 5},
      {.temperature = 0.2f},
      {.temperature = 1.7f},
      {.temperature = 1e-30f},
      {.temperature = 1e30f},
      {.temperature = 1, .top_k = 1},
      {.temperature = 0.8f, .top_k = 40},
      {.temperature = 1, .top_p = 0.9f, .top_k = 256},
      {.temperature = 1, .top_k = 257},
      {.temperature = 1, .top_p = 0.05f},
      {.temperature = 0.7f, .top_p = 0.9f},
      {.temperature = 1, .top_p = 0.95f, .min_p = 0.02f},
      {.temperature = 1.3f, .top_p = 0.9999f},
      {.temperature = 1, .min_p = 0.1f},
      {.temperature = 1, .min_p = 1},
      {.temperature = 0.9f, .top_p = 0.8f, .top_k = 50, .min_p = 0.05f},
      {.temperature = 1, .presence_penalty = 0.5f},
      {.repetition_penalty = 1.3f},
      {.temperature = 1, .logit_bias = {{0, 3}, {2, -100}}},
      {.min_tokens = 2, .masked_tokens = {0, 1}},
      {.temperature = 1, .forced = {1, 3}},
  };
  return *kinds;
}

TEST_F(SummaryTest, DrawsTheTokensOfTheWholeRow) {
  for (const size_t vocab : {5, 256, 257, 1024, 1025, 5000}) {
    std::vector<std::vector<float>> rows;
    for (uint32_t i = 0; i < 12; ++i) {
      rows.push_back(PeakedRow(vocab, i));
      rows.push_back(NormalRow(vocab, 3, i));
      rows.push_back(TiedRow(vocab, i));
    }
    for (SamplingParams params : AllKinds()) {
      for (params.seed = 0; params.seed < 4; ++params.seed) {
        ExpectSameDraws(params, rows);
        ASSERT_FALSE(HasFailure())
            << "vocabulary " << vocab << " temperature " << params.temperature << " top_k "
            << params.top_k << " top_p " << params.top_p << " min_p " << params.min_p;
      }
    }
  }
}

TEST_F(SummaryTest, DrawsManyTimes) {
  const std::vector<std::vector<float>> rows(3000, NormalRow(2500, 2, 1));
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 1, .seed = 3}, SamplingParams{.temperature = 0.6f, .seed = 4},
        SamplingParams{.temperature = 0.4f, .top_p = 0.7f, .seed = 5}}) {
    ExpectSameDraws(params, rows);
  }
}

// Whatever the program does with such rows.
TEST_F(SummaryTest, NotANumberAndInfinities) {
  const size_t vocab = 3000;
  std::vector<std::vector<float>> rows;
  for (const float odd : {kNaN, kInfinity}) {
    for (const size_t at : {size_t{0}, size_t{1500}, vocab - 1}) {
      rows.push_back(NormalRow(vocab, 3, 1));
      rows.back()[at] = odd;
    }
  }
  rows.push_back(std::vector<float>(vocab, -kInfinity));
  rows.push_back(rows.back());
  rows.back()[2047] = 1;
  rows.push_back(std::vector<float>(vocab, -kInfinity));
  rows.back()[5] = kNaN;
  rows.push_back(NormalRow(vocab, 1e37f, 2));
  rows.push_back(PeakedRow(vocab, 3));
  for (const SamplingParams& params : AllKinds()) ExpectSameDraws(params, rows);
}

TEST_F(SummaryTest, BringsTheWholeRowOnlyWhereItMust) {
  const size_t vocab = 20000, whole = vocab * sizeof(float);
  const std::vector<std::vector<float>> peaked = {PeakedRow(vocab, 1)};
  auto bytes = [&](SamplingParams params) {
    params.seed = 7;
    return ExpectSameDraws(params, peaked);
  };
  EXPECT_EQ(bytes({}), 0u);
  EXPECT_EQ(bytes({.top_logprobs = 20}), 0u);
  EXPECT_EQ(bytes({.temperature = 1}), LogitsSummary::kSegment * sizeof(float));
  EXPECT_EQ(bytes({.temperature = 0.7f, .top_k = 40}), 0u);
  EXPECT_EQ(bytes({.temperature = 0.7f, .top_p = 0.95f}), 0u);
  EXPECT_EQ(bytes({.temperature = 1, .min_p = 0.05f}), 0u);
  EXPECT_EQ(bytes({.temperature = 1, .top_k = 257}), whole);
  EXPECT_EQ(bytes({.top_logprobs = 257}), whole);
  EXPECT_EQ(bytes({.frequency_penalty = 1}), whole);
  EXPECT_EQ(bytes({.logit_bias = {{3, 1}}}), whole);
  EXPECT_EQ(bytes({.min_tokens = 1, .masked_tokens = {3}}), whole);
  // More than are listed have to stay.
  EXPECT_EQ(ExpectSameDraws({.temperature = 1, .top_p = 0.9f}, {NormalRow(vocab, 0.1f, 1)}), whole);
}

// Half of the mass is reached exactly: the sums' last bits would decide.
TEST_F(SummaryTest, LeavesWhatRoundingDecidesToTheWholeRow) {
  const std::vector<float> equal(1024, 2.5f);
  const size_t whole = equal.size() * sizeof(float);
  EXPECT_EQ(ExpectSameDraws({.temperature = 1, .top_p = 0.125f}, {equal}), whole);
  EXPECT_EQ(ExpectSameDraws({.temperature = 1, .top_p = 0.1251f}, {equal}), 0u);
}

}  // namespace
}  // namespace tessera
