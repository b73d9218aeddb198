#include "gpu_worker/serve/sampler.h"

#include <cmath>
#include <map>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

const std::vector<float> kLogits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};

std::map<uint32_t, double> Shares(const SamplingParams& params, int draws = 20000) {
  Sampler sampler(params);
  std::map<uint32_t, double> shares;
  for (int i = 0; i < draws; ++i) shares[sampler.Next(kLogits).id] += 1.0 / draws;
  return shares;
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

TEST(SamplerTest, SameSeedSameTokens) {
  Sampler a({.temperature = 1, .seed = 42}), b({.temperature = 1, .seed = 42}),
      c({.temperature = 1, .seed = 43});
  int different = 0;
  for (int i = 0; i < 200; ++i) {
    const uint32_t id = a.Next(kLogits).id;
    ASSERT_EQ(id, b.Next(kLogits).id);
    different += id != c.Next(kLogits).id;
  }
  EXPECT_GT(different, 0);
}

}  // namespace
}  // namespace tessera
