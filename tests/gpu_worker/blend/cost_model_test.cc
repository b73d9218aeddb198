// Properties of predictions and decisions, with the coefficients of a slow and of a fast device.
#include "gpu_worker/blend/cost_model.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

// About SmolLM2-135M on two cores: 216 tokens/s.
CostCoefficients Laptop() {
  return {.pass = 0.02,
          .row = 0.0045,
          .pair = 7e-7,
          .scored_pair = 2e-6,
          .placed_row = 5e-5,
          .correction = 2e-10,
          .logits = 0.01,
          .layers = 30,
          .kv_width = 384};
}

// About a 7B model on a large GPU.
CostCoefficients Gpu() {
  return {.pass = 8e-3,
          .row = 2.5e-5,
          .pair = 2e-9,
          .scored_pair = 4e-9,
          .placed_row = 1e-7,
          .correction = 1e-14,
          .logits = 1e-4,
          .layers = 32,
          .kv_width = 2048};
}

PromptShape Warm(int chunks, int64_t tokens, int64_t suffix = 32) {
  PromptShape shape;
  shape.chunks.push_back({.tokens = 24, .cached = 24, .exact = true});
  for (int i = 0; i < chunks; ++i) shape.chunks.push_back({.tokens = tokens, .cached = tokens});
  shape.suffix = suffix;
  shape.correction = true;
  shape.bytes_per_token = 23040;
  return shape;
}

PromptShape Cold(PromptShape shape) {
  for (ChunkShape& chunk : shape.chunks) chunk.cached = chunk.resident = 0;
  return shape;
}

PromptShape Resident(PromptShape shape) {
  for (ChunkShape& chunk : shape.chunks) chunk.resident = chunk.cached;
  return shape;
}

// A model whose link was found to have this speed.
void SetLink(double bytes_per_second, CostModel* model) {
  for (int i = 0; i < 200; ++i) {
    model->ObserveFetch(1 << 20, (1 << 20) / bytes_per_second, /*link_bound=*/true);
  }
  ASSERT_NEAR(model->fetch_bytes_per_second() / bytes_per_second, 1, 0.12);
}

TEST(CostModelTest, LongerPromptsCostMore) {
  for (const CostCoefficients& device : {Laptop(), Gpu()}) {
    const CostModel model(device);
    for (PrefillKind kind : {PrefillKind::kQuery, PrefillKind::kDeviation, PrefillKind::kStatic}) {
      double full = 0, warm = 0, cold = 0, suffix = 0;
      for (int64_t tokens = 50; tokens < 2000; tokens += 50) {
        PromptShape shape = Warm(6, tokens);
        shape.kind = kind;
        const double more[] = {model.FullSeconds(shape), model.BlendSeconds(shape),
                               model.BlendSeconds(Cold(shape))};
        EXPECT_GT(more[0], full) << tokens;
        EXPECT_GT(more[1], warm) << tokens;
        EXPECT_GT(more[2], cold) << tokens;
        EXPECT_GT(more[2], more[1]) << "a miss costs more than a hit";
        full = more[0], warm = more[1], cold = more[2];
        PromptShape other = Warm(6, 200, /*suffix=*/tokens);
        other.kind = kind;
        EXPECT_GT(model.BlendSeconds(Resident(other)), suffix);
        suffix = model.BlendSeconds(Resident(other));
      }
    }
  }
}

TEST(CostModelTest, TheQuadraticTermIsThere) {
  CostCoefficients device = Laptop();
  device.row = device.pass = device.logits = 0;
  EXPECT_NEAR(FullPrefillSeconds(device, 4000, 0) / FullPrefillSeconds(device, 1000, 0), 16, 0.1);
  const double behind = FullPrefillSeconds(device, 4000, 3000) - 3000 * device.placed_row;
  EXPECT_NEAR(behind / FullPrefillSeconds(device, 4000, 0), 7.0 / 16, 0.01);
}

TEST(CostModelTest, LongWarmPromptsAreBlendedAndShortOnesAreNot) {
  for (const CostCoefficients& device : {Laptop(), Gpu()}) {
    const CostModel model(device);
    const CostDecision warm = model.Choose(Warm(8, 1000));
    EXPECT_TRUE(warm.blend);
    EXPECT_EQ(warm.kind, PrefillKind::kQuery);
    EXPECT_LT(warm.blend_seconds, warm.full_seconds / 2);
    EXPECT_EQ(warm.seconds, warm.blend_seconds);
    for (const PromptShape& shape : {Warm(1, 10, 60), Cold(Warm(1, 10, 60)), Warm(0, 0, 60)}) {
      const CostDecision brief = model.Choose(shape);
      EXPECT_FALSE(brief.blend);
      EXPECT_EQ(brief.kind, PrefillKind::kFull);
      EXPECT_EQ(brief.seconds, brief.full_seconds);
    }
  }
}

TEST(CostModelTest, WhatRecomputesEverythingIsAFullPrefill) {
  const CostModel model(Laptop());
  PromptShape shape = Warm(8, 245);
  shape.ratio = 1;
  EXPECT_FALSE(model.Choose(shape).blend);
}

TEST(CostModelTest, APromptWithoutChunksIsNeverBlended) {
  PromptShape shape = Warm(0, 0, 500);
  shape.chunks.clear();
  EXPECT_FALSE(CostModel(Laptop()).Choose(shape).blend);
}

TEST(CostModelTest, ChunksThatAreStoredMayCostMore) {
  const CostModel model(Laptop());
  PromptShape shape = Cold(Warm(8, 245));
  const CostDecision stored = model.Choose(shape);
  EXPECT_TRUE(stored.blend);
  EXPECT_GT(stored.blend_seconds, stored.full_seconds);
  shape.store = false;
  EXPECT_FALSE(model.Choose(shape).blend) << "nobody will read them";
}

TEST(CostModelTest, ALongExactPrefixWins) {
  const CostModel model(Laptop());
  PromptShape shape = Warm(8, 245);
  shape.prefix = shape.tokens() - shape.suffix;
  const CostDecision decision = model.Choose(shape);
  EXPECT_FALSE(decision.blend);
  EXPECT_TRUE(decision.fetch_prefix);
}

TEST(CostModelTest, OverASlowLinkComputingIsFaster) {
  CostModel model(Laptop());
  SetLink(2e4, &model);
  const PromptShape shape = Warm(8, 245);
  const CostDecision slow = model.Choose(shape);
  EXPECT_EQ(slow.taken, std::vector<int64_t>(9, 0));
  PromptShape prefix = shape;
  prefix.prefix = 1536;
  EXPECT_FALSE(model.Choose(prefix).fetch_prefix);
  prefix.resident_prefix = 1536;
  EXPECT_LT(model.Choose(prefix).full_seconds, slow.full_seconds) << "what is here is used";

  SetLink(1e9, &model);
  std::vector<int64_t> all(9, 245);
  all[0] = 24;
  EXPECT_EQ(model.Choose(shape).taken, all);
  SetLink(2e4, &model);
  const CostDecision here = model.Choose(Resident(shape));
  EXPECT_TRUE(here.blend) << "what is here is taken whatever the link";
  EXPECT_EQ(here.taken, all);
}

TEST(CostModelTest, BetweenThemFetchingAndComputingEndTogether) {
  CostModel model(Laptop());
  SetLink(3e6, &model);  // 130 tokens a second, against 216 that are computed
  PromptShape shape = Warm(8, 600);
  const CostDecision part = model.Choose(shape);
  int64_t taken = 0, pieces = 0;
  for (size_t i = 0; i < part.taken.size(); ++i) {
    taken += part.taken[i];
    const bool whole = part.taken[i] == shape.chunks[i].cached;
    EXPECT_TRUE(whole || part.taken[i] % shape.tokens_per_piece == 0);
    pieces += !whole && part.taken[i] > 0;
  }
  EXPECT_GT(taken, 600);
  EXPECT_LT(taken, 8 * 600);
  EXPECT_LE(pieces, 1) << "one chunk at most is taken in part";
  EXPECT_LT(part.blend_seconds, model.BlendSeconds(shape));
  EXPECT_LT(part.blend_seconds, model.BlendSeconds(Cold(shape)));
}

// Shapes of all kinds.
PromptShape MadeUp(std::mt19937* random) {
  auto below = [&](int64_t n) { return static_cast<int64_t>((*random)() % n); };
  PromptShape shape = Warm(0, 0, 1 + below(300));
  for (int64_t i = below(12); i > 0; --i) {
    const int64_t tokens = 1 + below(1200);
    ChunkShape chunk = {.tokens = tokens};
    chunk.cached = below(3) == 0 ? tokens : tokens / 256 * 256;
    if (below(4) == 0) chunk.cached = 0;
    if (below(4) == 0) chunk.resident = chunk.cached;
    shape.chunks.push_back(chunk);
  }
  shape.kind = static_cast<PrefillKind>(1 + below(3));
  shape.ratio = static_cast<double>(below(100)) / 100;
  shape.first_rows = below(2) * 16;
  shape.correction = below(2) == 0;
  shape.store = below(2) == 0;
  shape.layerwise = below(4) != 0;
  if (below(3) == 0) shape.prefix = shape.tokens() / 512 * 256;
  return shape;
}

TEST(CostModelTest, NeverSlowerThanAFullPrefillButForWhatIsStored) {
  std::mt19937 random(1);
  int blends = 0;
  for (int i = 0; i < 3000; ++i) {
    CostModel model(i % 2 == 0 ? Laptop() : Gpu());
    model.ObserveFetch(1 << 20, std::pow(10.0, -static_cast<double>(random() % 5)), true);
    const PromptShape shape = MadeUp(&random);
    const CostDecision decision = model.Choose(shape);
    const double missing = BlendPartsOf(model.coefficients(), shape).missing;
    const double most =
        decision.full_seconds + (shape.store ? (CostModel::kMissingMayCost - 1) * missing : 0);
    EXPECT_EQ(decision.blend, !shape.chunks.empty() && decision.blend_seconds <= most);
    EXPECT_EQ(decision.seconds, decision.blend ? decision.blend_seconds : decision.full_seconds);
    EXPECT_LE(decision.blend_seconds, model.BlendSeconds(shape) * (1 + 1e-9));
    EXPECT_LE(decision.prefill_compute + decision.blend_compute, decision.seconds * (1 + 1e-9));
    for (size_t k = 0; k < shape.chunks.size(); ++k) {
      EXPECT_LE(decision.taken[k], shape.chunks[k].cached);
      EXPECT_GE(decision.taken[k], shape.chunks[k].resident);
    }
    const CostDecision again = model.Choose(shape);
    EXPECT_EQ(again.blend, decision.blend);
    EXPECT_EQ(again.taken, decision.taken);
    EXPECT_EQ(model.Predict(shape, true).seconds, decision.blend_seconds);
    EXPECT_EQ(model.Predict(shape, false).seconds, decision.full_seconds);
    blends += decision.blend;
  }
  EXPECT_GT(blends, 300);
  EXPECT_LT(blends, 2700);
}

// What a prefill takes on a machine where the coefficients are wrong by these factors.
double Really(const CostModel& model, const CostDecision& decision, double prefill, double blend) {
  return decision.prefill_compute * prefill / model.FactorOf(PrefillKind::kFull) +
         decision.blend_compute * blend / model.FactorOf(decision.kind);
}

TEST(CostModelTest, LearnsFromErrors) {
  CostModel model(Laptop());
  const PromptShape shape = Warm(8, 245);
  PromptShape plain = Warm(0, 0, 500);
  plain.chunks.clear();
  const CostDecision before = model.Choose(shape);
  for (int i = 0; i < 100; ++i) {
    const CostDecision blend = model.Choose(shape), full = model.Choose(plain);
    ASSERT_TRUE(blend.blend);
    ASSERT_FALSE(full.blend);
    model.Observe(blend, Really(model, blend, 2, 1.5));
    model.Observe(full, Really(model, full, 2, 1.5));
  }
  EXPECT_NEAR(model.FullSeconds(shape) / before.full_seconds, 2, 0.2);
  EXPECT_NEAR(model.Choose(shape).blend_compute / before.blend_compute, 1.5, 0.15);
  EXPECT_GT(model.FactorOf(PrefillKind::kDeviation), 1) << "nobody knows, so it follows the others";
  EXPECT_LT(model.FactorOf(PrefillKind::kDeviation), 2);
}

TEST(CostModelTest, AColdBlendTeachesBoth) {
  CostModel model(Laptop());
  const PromptShape cold = Cold(Warm(8, 245)), warm = Warm(8, 245);
  for (int i = 0; i < 200; ++i) {
    const CostDecision one = model.Choose(cold), other = model.Choose(warm);
    if (one.blend) model.Observe(one, Really(model, one, 2, 1));
    if (other.blend) model.Observe(other, Really(model, other, 2, 1));
  }
  EXPECT_NEAR(model.FactorOf(PrefillKind::kFull), 2, 0.3);
  EXPECT_NEAR(model.FactorOf(PrefillKind::kQuery), 1, 0.15);
}

// Where a kind takes longer than its coefficients say, decisions turn; where all do, they do not,
// but for a while.
TEST(CostModelTest, DecisionsFollowTheMachine) {
  for (const auto& [prefill, blend] : {std::pair(1.0, 1.0), {1.0, 3.0}, {3.0, 3.0}, {3.0, 1.0}}) {
    CostModel model(Laptop());
    PromptShape shape = Warm(8, 245);
    shape.ratio = 0.5;
    ASSERT_TRUE(model.Choose(shape).blend);
    const bool best = blend / prefill < 2;
    int wrong = 0;
    for (int i = 0; i < 300; ++i) {
      const CostDecision decision = model.Choose(shape);
      model.Observe(decision, Really(model, decision, prefill, blend));
      wrong += decision.blend != best;
    }
    EXPECT_LT(wrong, 30) << prefill << " " << blend;
  }
}

// A burst of other work made the blends of a few requests slow: they come back.
TEST(CostModelTest, WhatWasSlowOnceIsTriedAgain) {
  CostModel model(Laptop());
  PromptShape shape = Warm(8, 245);
  shape.ratio = 0.5;
  for (int i = 0; i < 20; ++i) {
    const CostDecision decision = model.Choose(shape);
    if (decision.blend) model.Observe(decision, Really(model, decision, 1, 4));
  }
  ASSERT_FALSE(model.Choose(shape).blend);
  int full = 0;
  for (int i = 0; i < 300; ++i) {
    const CostDecision decision = model.Choose(shape);
    model.Observe(decision, Really(model, decision, 1, 1));
    full += !decision.blend;
  }
  EXPECT_TRUE(model.Choose(shape).blend);
  EXPECT_GE(full, 20) << "not at once";
  EXPECT_LT(full, 200);
}

TEST(CostModelTest, ALinkThatWasSlowOnceIsTriedAgain) {
  CostModel model(Laptop());
  SetLink(1e5, &model);
  const PromptShape shape = Warm(8, 245);
  ASSERT_EQ(model.Choose(shape).taken.back(), 0);
  int unused = 0;
  while (model.Choose(shape).taken.back() == 0 && unused < 2000) {
    const CostDecision decision = model.Choose(shape);
    model.Observe(decision, Really(model, decision, 1, 1));
    ++unused;
  }
  EXPECT_GE(unused, 20);
  EXPECT_LT(unused, 500);
}

TEST(CostModelTest, NoiseChangesNothing) {
  CostModel model(Laptop());
  SetLink(1e8, &model);
  const PromptShape shape = Warm(4, 245);
  const CostDecision before = model.Choose(shape);
  std::mt19937 random(3);
  for (int i = 0; i < 1000; ++i) {
    const double noise = 0.9 + 0.2 * static_cast<double>(random() % 1000) / 1000;
    model.Observe({.blend = true, .kind = PrefillKind::kQuery, .blend_compute = 1}, noise);
    model.Observe({.prefill_compute = 1}, noise);
    model.ObserveFetch(1 << 20, (1 << 20) / model.fetch_bytes_per_second() * noise, true);
    const CostDecision now = model.Choose(shape);
    ASSERT_EQ(now.seconds, before.seconds) << "after " << i;
    ASSERT_EQ(now.full_seconds, before.full_seconds);
  }
}

TEST(CostModelTest, AbsurdMeasurementsAreBounded) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const PromptShape shape = Warm(8, 245);
  const CostModel fresh(Laptop());
  for (double actual : {0.0, -1.0, 1e30, 1e-30, kInfinity, -kInfinity, std::nan("")}) {
    CostModel model(Laptop());
    for (int i = 0; i < 1000; ++i) {
      const CostDecision one = {.blend = true, .kind = PrefillKind::kQuery, .blend_compute = 1};
      CostDecision other = one;
      other.blend_compute = actual;
      model.Observe(one, actual);
      model.Observe(other, 1);
      model.ObserveFetch(1 << 30, actual, true);
      model.ObserveFetch(1 << 30, 1 / actual, false);
      model.ObserveFetch(-1, actual, true);
      model.ObserveLookup(actual);
      if (i % 3 == 0) model.Observe(one, actual);
    }
    for (PrefillKind kind : {PrefillKind::kFull, PrefillKind::kQuery, PrefillKind::kStatic}) {
      EXPECT_GE(model.FactorOf(kind), 1.0 / 4) << actual;
      EXPECT_LE(model.FactorOf(kind), 4) << actual;
    }
    EXPECT_GE(model.fetch_bytes_per_second(), 1e3);
    EXPECT_LE(model.fetch_bytes_per_second(), 1e15);
    const CostDecision decision = model.Choose(Resident(shape));
    EXPECT_GT(decision.seconds, 0);
    EXPECT_LT(decision.full_seconds, 5 * fresh.FullSeconds(shape));
    EXPECT_TRUE(std::isfinite(model.Choose(shape).seconds));
  }
}

TEST(CostModelTest, AFetchThatWasThereEarlyOnlyRaisesTheSpeed) {
  CostModel model(Laptop());
  const double before = model.fetch_bytes_per_second();
  for (int i = 0; i < 50; ++i) model.ObserveFetch(1 << 20, 1, /*link_bound=*/false);
  EXPECT_EQ(model.fetch_bytes_per_second(), before) << "it only was not asked for earlier";
  for (int i = 0; i < 50; ++i) model.ObserveFetch(1 << 30, 0.1, /*link_bound=*/false);
  EXPECT_GT(model.fetch_bytes_per_second(), 5 * before);
  for (int i = 0; i < 50; ++i) model.ObserveFetch(1000, 1, /*link_bound=*/true);
  EXPECT_GT(model.fetch_bytes_per_second(), 5 * before) << "too few bytes to tell";
}

TEST(CostModelTest, ManyThreadsMayUseIt) {
  CostModel model(Laptop());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&model, t] {
      for (int i = 0; i < 2000; ++i) {
        model.Observe({.blend = t > 0, .kind = static_cast<PrefillKind>(t), .blend_compute = 1}, 2);
        model.ObserveFetch(1 << 20, 1e-3, true);
        EXPECT_GT(model.Choose(Warm(2, 300)).seconds, 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(model.FactorOf(PrefillKind::kQuery), 1.5);
}

}  // namespace
}  // namespace tessera
