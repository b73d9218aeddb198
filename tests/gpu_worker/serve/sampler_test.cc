#include "gpu_worker/serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gpu_worker/serve/sampler_golden.h"

namespace tessera {
namespace {

const std::vector<float> kLogits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};

std::map<uint32_t, double> Shares(const SamplingParams& params, int draws = 20000) {
  Sampler sampler(params);
  std::map<uint32_t, double> shares;
  for (int i = 0; i < draws; ++i) shares[sampler.Next(kLogits).id] += 1.0 / draws;
  return shares;
}

std::vector<float> MadeUpRow(size_t size, uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<float> row(size);
  // Few different values: ties everywhere.
  for (float& x : row) x = static_cast<float>(random() % 500) / 50.0f - 5.0f;
  return row;
}

TEST(SamplerTest, GreedyTakesTheLikeliestAndTheLowerOfEquals) {
  Sampler sampler({});
  EXPECT_EQ(sampler.Next(kLogits).id, 1u);
  EXPECT_NEAR(sampler.Next(kLogits).logprob, std::log(0.4), 1e-5);
  EXPECT_EQ(sampler.Next(std::vector<float>{1, 3, 3, 2}).id, 1u);
}

TEST(SamplerTest, DrawsByProbability) {
  const auto shares = Shares({.temperature = 1, .seed = 7});
  EXPECT_NEAR(shares.at(0), 0.1, 0.015);
  EXPECT_NEAR(shares.at(1), 0.4, 0.015);
  EXPECT_NEAR(shares.at(2), 0.2, 0.015);
  EXPECT_NEAR(shares.at(3), 0.3, 0.015);
  const auto sharp = Shares({.temperature = 0.5, .seed = 7});  // squares: .01 .16 .04 .09 over .30
  EXPECT_NEAR(sharp.at(1), 0.16 / 0.30, 0.015);
}

TEST(SamplerTest, TopKAndTopPKeepTheLikeliest) {
  const auto two = Shares({.temperature = 1, .top_k = 2, .seed = 7});
  EXPECT_EQ(two.size(), 2u);
  EXPECT_NEAR(two.at(1), 4.0 / 7, 0.015);
  const auto nucleus = Shares({.temperature = 1, .top_p = 0.65f, .seed = 7});  // .4 + .3 reach .65
  EXPECT_EQ(nucleus.size(), 2u);
  EXPECT_NEAR(nucleus.at(3), 3.0 / 7, 0.015);
  EXPECT_EQ(Shares({.temperature = 1, .top_p = 1e-6f, .seed = 7}, 100).size(), 1u);
}

// The first draw of many answers: what may be drawn is exact, how often within five deviations.
TEST(SamplerTest, SharesAreThoseOfTheDefinitions) {
  constexpr int kDrawsEach = 40000;
  for (size_t i = 0; i < kDraws.size(); ++i) {
    const GoldenDraw& golden = kDraws[i];
    std::map<uint32_t, int> counts;
    for (int draw = 0; draw < kDrawsEach; ++draw) {
      SamplingParams params = golden.params;
      params.seed = draw;
      ++counts[Sampler(params, kPrompt).Next(kBaseLogits).id];
    }
    for (const auto& [id, count] : counts) {
      EXPECT_GT(golden.shares.count(id), 0u) << "case " << i << " drew " << id;
    }
    for (const auto& [id, share] : golden.shares) {
      const double deviation = std::sqrt(share * (1 - share) / kDrawsEach) + 1e-6;
      EXPECT_NEAR(counts[id] / double{kDrawsEach}, share, 5 * deviation)
          << "case " << i << " token " << id;
    }
  }
}

TEST(SamplerTest, PenaltiesBiasAndMasksMoveTheGreedyTokens) {
  for (size_t i = 0; i < kGreedy.size(); ++i) {
    Sampler sampler(kGreedy[i].params, kPrompt);
    std::vector<uint32_t> ids;
    for (size_t step = 0; step < kGreedy[i].ids.size(); ++step) {
      ids.push_back(sampler.Next(kBaseLogits).id);
    }
    EXPECT_EQ(ids, kGreedy[i].ids) << "case " << i;
  }
}

TEST(SamplerTest, LogprobsAreOfTheLogitsAsGiven) {
  SamplingParams params = {.temperature = 0.3f,
                           .top_k = 2,
                           .frequency_penalty = 2,
                           .repetition_penalty = 3,
                           .logit_bias = {{0, 50}},
                           .top_logprobs = 3,
                           .seed = 1};
  Sampler sampler(params);
  for (int i = 0; i < 20; ++i) {
    const SampledToken token = sampler.Next(kLogits);
    EXPECT_NEAR(token.logprob, kLogits[token.id], 1e-5);
    ASSERT_EQ(token.top.size(), 3u);
    EXPECT_EQ(token.top[0].id, 1u);
    EXPECT_EQ(token.top[1].id, 3u);
    EXPECT_EQ(token.top[2].id, 2u);
    EXPECT_NEAR(token.top[2].logprob, std::log(0.2), 1e-5);
  }
}

TEST(SamplerTest, LikeliestIsTheHeadOfTheWholeSort) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const std::vector<float> row = MadeUpRow(3000, seed);
    std::vector<uint32_t> sorted(row.size());
    for (uint32_t id = 0; id < row.size(); ++id) sorted[id] = id;
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](uint32_t a, uint32_t b) { return row[a] > row[b]; });
    for (size_t count : {0, 1, 20, 500, 3000, 9000}) {
      const std::vector<uint32_t> head(sorted.begin(),
                                       sorted.begin() + std::min(count, sorted.size()));
      EXPECT_EQ(Likeliest(row, count), head) << count;
    }
  }
}

// A nucleus of a large vocabulary is found without sorting it, and is the one that sorting finds.
TEST(SamplerTest, TheNucleusOfALargeVocabularyIsTheSortedOne) {
  for (const float top_p : {0.05f, 0.5f, 0.9f, 0.999f}) {
    const std::vector<float> row = MadeUpRow(2000, 3);
    const std::vector<uint32_t> sorted = Likeliest(row, row.size());
    double mass = 0, reached = 0;
    for (float x : row) mass += std::exp(double{x});
    size_t kept = 0;
    while (reached < top_p * mass) reached += std::exp(double{row[sorted[kept++]]});
    const std::vector<uint32_t> nucleus(sorted.begin(), sorted.begin() + kept);
    Sampler sampler({.temperature = 1, .top_p = top_p, .seed = 5});
    std::map<uint32_t, int> counts;
    for (int i = 0; i < 1500; ++i) ++counts[sampler.Next(row).id];
    for (const auto& [id, count] : counts) {
      EXPECT_NE(std::find(nucleus.begin(), nucleus.end(), id), nucleus.end()) << top_p;
    }
    EXPECT_GT(counts.size(), std::min<size_t>(kept / 3, 300));
  }
}

TEST(SamplerTest, SameSeedSameTokens) {
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 1}, SamplingParams{.temperature = 1, .top_p = 0.99f},
        SamplingParams{.temperature = 1, .presence_penalty = 0.1f}}) {
    SamplingParams first = params, second = params;
    first.seed = 42;
    second.seed = 43;
    Sampler a(first), b(first), c(second);
    int different = 0;
    for (int i = 0; i < 200; ++i) {
      const uint32_t id = a.Next(kLogits).id;
      ASSERT_EQ(id, b.Next(kLogits).id);
      different += id != c.Next(kLogits).id;
    }
    EXPECT_GT(different, 0);
  }
}

TEST(SamplerTest, ForcedTokensComeFirstAndLeaveTheSeedAsItWas) {
  const SamplingParams free = {.temperature = 1, .seed = 4};
  SamplingParams forcing = free;
  forcing.forced = {0, 3, 0};
  forcing.top_logprobs = 2;
  Sampler forced(forcing), drawing(free);
  for (const uint32_t want : forcing.forced) {
    const SampledToken token = forced.Next(kLogits);
    EXPECT_EQ(token.id, want);
    EXPECT_NEAR(token.logprob, kLogits[want], 1e-5);
    EXPECT_EQ(token.top[0].id, 1u);
  }
  for (int i = 0; i < 50; ++i) EXPECT_EQ(forced.Next(kLogits).id, drawing.Next(kLogits).id);
}

TEST(SamplerTest, ForcedTokensArePenalizedAndOverruleMasks) {
  SamplingParams params = {.frequency_penalty = 2, .min_tokens = 2, .masked_tokens = {1}};
  params.forced = {1, 1};
  Sampler sampler(params);
  for (const uint32_t want : {1, 1, 3}) EXPECT_EQ(sampler.Next(kLogits).id, want);
}

TEST(SamplerTest, MaskedTokensComeAfterMinTokens) {
  Sampler sampler({.min_tokens = 3, .masked_tokens = {1, 3, 99}});
  for (const uint32_t want : {2, 2, 2, 1, 1}) EXPECT_EQ(sampler.Next(kLogits).id, want);
  Sampler drawing({.temperature = 5, .min_tokens = 1000, .masked_tokens = {1, 3}, .seed = 2});
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(drawing.Next(kLogits).id % 2, 0u);
}

TEST(SamplerTest, ExtremesStayInBounds) {
  const std::vector<float> wide = {-3e38f, 3e38f, 0};
  EXPECT_EQ(Sampler({.temperature = 1e-30f}).Next(wide).id, 1u);
  EXPECT_EQ(Sampler({.temperature = 1e30f, .top_p = 1e-30f}).Next(kLogits).id, 1u);
  EXPECT_EQ(Sampler({.temperature = 1, .min_p = 1}).Next(kLogits).id, 1u);
  // Everything masked: still a token.
  EXPECT_LT(
      Sampler({.temperature = 1, .min_tokens = 1, .masked_tokens = {0, 1, 2, 3}}).Next(kLogits).id,
      4u);
}

}  // namespace
}  // namespace tessera
