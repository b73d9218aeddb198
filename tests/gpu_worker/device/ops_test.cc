// The CPU's operations against the shortest statement of each in double precision, over odd shapes.
#include "gpu_worker/device/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

class Numbers {
 public:
  Numbers(int64_t rows, int64_t cols, uint32_t seed)
      : values_(rows * cols), rows_(rows), cols_(cols) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (float& x : values_) x = normal(random);
  }
  Matrix view() { return {values_.data(), rows_, cols_}; }
  float at(int64_t r, int64_t c) const { return values_[r * cols_ + c]; }
  std::vector<float>& values() { return values_; }

 private:
  std::vector<float> values_;
  int64_t rows_, cols_;
};

std::vector<Bf16> Narrow(const std::vector<float>& x) {
  std::vector<Bf16> narrow(x.size());
  std::transform(x.begin(), x.end(), narrow.begin(), ToBf16);
  return narrow;
}

RopeTable TableFor(int64_t head_dim, int64_t positions) {
  RopeTable table;
  table.half_dim = head_dim / 2;
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t j = 0; j < table.half_dim; ++j) {
      const double angle = p / std::pow(10000.0, 2.0 * j / head_dim);
      table.cos.push_back(std::cos(angle));
      table.sin.push_back(std::sin(angle));
    }
  }
  return table;
}

struct KvNumbers {
  KvNumbers(int64_t heads, int64_t capacity, int64_t head_dim, uint32_t seed)
      : k(heads * capacity, head_dim, seed), v(heads * capacity, head_dim, seed + 1) {
    layer = {k.view().data(), v.view().data(), capacity, heads, head_dim};
  }
  Numbers k, v;
  LayerKv layer;
};

// Probabilities of one query head at one position.
std::vector<double> Probabilities(const float* q, int64_t position, const LayerKv& kv,
                                  int64_t head) {
  std::vector<double> p(position + 1);
  for (int64_t s = 0; s <= position; ++s) {
    double dot = 0;
    for (int64_t i = 0; i < kv.head_dim; ++i) dot += static_cast<double>(q[i]) * kv.K(head, s)[i];
    p[s] = dot / std::sqrt(static_cast<double>(kv.head_dim));
  }
  const double most = *std::max_element(p.begin(), p.end());
  for (double& x : p) x = std::exp(x - most);
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

struct Shape {
  int64_t rows, keys, kv_heads, group, head_dim;
};

class AttentionTest : public ::testing::TestWithParam<Shape> {
 protected:
  // Ascending positions within the keys, the last one the last key; with gaps when there is room.
  static std::vector<int32_t> Positions(const Shape& s) {
    std::vector<int32_t> all(s.keys);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end() - 1, std::mt19937(5));
    std::vector<int32_t> positions(all.begin(), all.begin() + s.rows - 1);
    positions.push_back(static_cast<int32_t>(s.keys - 1));
    std::sort(positions.begin(), positions.end());
    return positions;
  }
};

TEST_P(AttentionTest, SeesExactlyTheKeysUpToItsOwnPosition) {
  const Shape s = GetParam();
  const std::unique_ptr<Ops> ops = MakeCpuOps(2);
  KvNumbers kv(s.kv_heads, s.keys + 3, s.head_dim, 1);
  Numbers q(s.rows, s.kv_heads * s.group * s.head_dim, 3), out = q, scored = q;
  const std::vector<int32_t> positions = Positions(s);
  std::vector<float> scores(s.keys, 0.5f), plain(s.keys, 0.0f);
  ops->Attend(q.view(), positions, kv.layer, out.view());
  ops->AttendScored(q.view(), positions, kv.layer, true, scored.view(), absl::MakeSpan(scores));
  ops->AttendScored(q.view(), positions, kv.layer, false, scored.view(), absl::MakeSpan(plain));
  const int64_t heads = s.kv_heads * s.group;
  std::vector<double> attention(s.keys, 0.0);
  std::vector<std::vector<double>> squares(heads, attention);  // mean over rows
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t h = 0; h < heads; ++h) {
      const std::vector<double> p =
          Probabilities(q.view().Row(r) + h * s.head_dim, positions[r], kv.layer, h / s.group);
      for (size_t k = 0; k < p.size(); ++k) {
        attention[k] += p[k] / (s.rows * heads);
        squares[h][k] += p[k] * p[k] / s.rows;
      }
      for (int64_t i = 0; i < s.head_dim; ++i) {
        double expected = 0;
        for (size_t k = 0; k < p.size(); ++k) expected += p[k] * kv.layer.V(h / s.group, k)[i];
        ASSERT_NEAR(out.at(r, h * s.head_dim + i), expected, 2e-5) << "row " << r << " head " << h;
        ASSERT_NEAR(scored.at(r, h * s.head_dim + i), expected, 2e-5);
      }
    }
  }
  for (int64_t k = 0; k < s.keys; ++k) {
    double weighted = 0;
    for (int64_t h = 0; h < heads; ++h) {
      double norm = 0;
      for (int64_t i = 0; i < s.head_dim; ++i) norm += std::pow(kv.layer.V(h / s.group, k)[i], 2);
      weighted += std::sqrt(squares[h][k] * norm);
    }
    ASSERT_NEAR(plain[k], attention[k], 1e-5);
    ASSERT_NEAR(scores[k] - 0.5, weighted, 2e-5 * (1 + weighted)) << "key " << k;
  }
}

INSTANTIATE_TEST_SUITE_P(OddShapes, AttentionTest,
                         ::testing::Values(Shape{1, 1, 1, 1, 64}, Shape{1, 700, 2, 3, 64},
                                           Shape{17, 17, 1, 8, 80}, Shape{37, 300, 3, 3, 64},
                                           Shape{5, 513, 2, 1, 128}, Shape{65, 1000, 1, 4, 96},
                                           Shape{33, 257, 2, 6, 256}));

TEST(OpsTest, AttendOfNoRowsDoesNothing) {
  const std::unique_ptr<Ops> ops = MakeCpuOps(1);
  KvNumbers kv(1, 4, 8, 1);
  std::vector<float> scores(4, 0.25f);
  ops->Attend({nullptr, 0, 8}, {}, kv.layer, {nullptr, 0, 8});
  ops->AttendScored({nullptr, 0, 8}, {}, kv.layer, true, {nullptr, 0, 8}, absl::MakeSpan(scores));
  EXPECT_EQ(scores, std::vector<float>(4, 0.25f));
}

class MatMulTest : public ::testing::TestWithParam<std::tuple<int64_t, int64_t, int64_t>> {};

TEST_P(MatMulTest, EqualsTheSumOfProducts) {
  const auto [rows, outputs, inputs] = GetParam();
  const std::unique_ptr<Ops> ops = MakeCpuOps(2);
  const bool narrow = ops->name() == "cpu-bf16";
  Numbers x(rows, inputs, 1), w(outputs, inputs, 2), bias(1, outputs, 3), out(rows, outputs, 4);
  const std::vector<Bf16> stored = Narrow(w.values());
  const std::vector<float> before = out.values();
  const Weight weight{stored.data(), DType::kBf16, outputs, inputs};
  ops->MatMul(x.view(), weight, bias.values(), /*accumulate=*/true, out.view());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < outputs; ++n) {
      double sum = before[r * outputs + n] + bias.at(0, n);
      for (int64_t i = 0; i < inputs; ++i) {
        sum += static_cast<double>(x.at(r, i)) * ToFloat(stored[n * inputs + i]);
      }
      ASSERT_NEAR(out.at(r, n), sum, (narrow ? 4e-2 : 2e-5) * std::sqrt(inputs)) << r << " " << n;
    }
  }
  const Weight wide{w.view().data(), DType::kF32, outputs, inputs};
  ops->MatMul(x.view(), wide, {}, /*accumulate=*/false, out.view());
  double first = 0;
  for (int64_t i = 0; i < inputs; ++i) first += static_cast<double>(x.at(0, i)) * w.at(0, i);
  EXPECT_NEAR(out.at(0, 0), first, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(OddShapes, MatMulTest,
                         ::testing::Values(std::tuple(1, 1, 1), std::tuple(1, 193, 576),
                                           std::tuple(4, 65, 31), std::tuple(5, 64, 64),
                                           std::tuple(17, 130, 100), std::tuple(129, 257, 96)));

TEST(OpsTest, ProductsHaveTheSameBitsWithAnyNumberOfThreads) {
  Numbers x(70, 576, 1), w(300, 576, 2), one(70, 300, 0), two(70, 300, 0);
  const std::vector<Bf16> stored = Narrow(w.values());
  const Weight weight{stored.data(), DType::kBf16, 300, 576};
  MakeCpuOps(1)->MatMul(x.view(), weight, {}, false, one.view());
  MakeCpuOps(3)->MatMul(x.view(), weight, {}, false, two.view());
  EXPECT_EQ(one.values(), two.values());
}

TEST(OpsTest, ProductsByRowHaveTheSameBitsBesideAnyOthers) {
  const std::unique_ptr<Ops> ops = MakeCpuOps(2);
  for (const int64_t inputs : {31, 64, 100, 576}) {
    Numbers x(17, inputs, 1), w(75, inputs, 2), bias(1, 75, 3), all(17, 75, 4), alone(17, 75, 4);
    const std::vector<Bf16> stored = Narrow(w.values());
    for (const Weight& weight : {Weight{stored.data(), DType::kBf16, 75, inputs},
                                 Weight{w.view().data(), DType::kF32, 75, inputs}}) {
      ops->MatMulByRow(x.view(), weight, bias.values(), /*accumulate=*/true, all.view());
      for (int64_t r = 0; r < 17; ++r) {
        ops->MatMul(x.view().Slice(r, 1), weight, bias.values(), true, alone.view().Slice(r, 1));
      }
      EXPECT_EQ(all.values(), alone.values()) << inputs << " inputs";
    }
  }
}

TEST(OpsTest, RmsNormAndSwiGlu) {
  const std::unique_ptr<Ops> ops = MakeCpuOps(2);
  Numbers x(17, 96, 1), gain(1, 32, 2), out(17, 96, 3), up(17, 96, 4);
  ops->RmsNorm(x.view(), gain.values(), 1e-5f,
               out.view());  // three runs of 32 in a row, as QK norm has
  for (int64_t r = 0; r < 17; ++r) {
    for (int64_t c = 0; c < 96; ++c) {
      double square = 0;
      for (int64_t i = 0; i < 32; ++i) square += std::pow(x.at(r, c / 32 * 32 + i), 2) / 32;
      ASSERT_NEAR(out.at(r, c), x.at(r, c) / std::sqrt(square + 1e-5) * gain.at(0, c % 32), 1e-5);
    }
  }
  Numbers gate = x;
  ops->SwiGlu(gate.view(), up.view());
  for (int64_t r = 0; r < 17; ++r) {
    for (int64_t c = 0; c < 96; ++c) {
      ASSERT_NEAR(gate.at(r, c), x.at(r, c) / (1 + std::exp(-x.at(r, c))) * up.at(r, c), 1e-5);
    }
  }
}

TEST(OpsTest, PlacedSliceEqualsRotatedAndWrittenRows) {
  const std::unique_ptr<Ops> ops = MakeCpuOps(2);
  const RopeTable rope = TableFor(16, 200);
  Numbers k(130, 32, 1), v(130, 32, 2);
  std::vector<Bf16> slice_k(130 * 32), slice_v(130 * 32);
  ops->RoundToSlice(k.view(), v.view(), slice_k.data(), slice_v.data());
  EXPECT_EQ(slice_k, Narrow(k.values()));  // already rounded, so nothing is lost
  KvNumbers placed(2, 200, 16, 5), written(2, 200, 16, 5);
  ops->PlaceSlice({slice_k.data(), slice_v.data(), 130}, 50, rope, placed.layer);
  std::vector<int32_t> positions(130);
  std::iota(positions.begin(), positions.end(), 50);
  ops->RotateAndWriteKv(k.view(), v.view(), positions, rope, written.layer);
  EXPECT_EQ(placed.k.values(), written.k.values());
  EXPECT_EQ(placed.v.values(), written.v.values());
}

TEST(OpsTest, RotationKeepsProductsThatDependOnDistance) {
  const std::unique_ptr<Ops> ops = MakeCpuOps(1);
  const RopeTable rope = TableFor(64, 400);
  double first = 0;
  for (int32_t at : {9, 120, 390}) {
    Numbers q(1, 64, 1), k(1, 64, 2);
    ops->Rotate(q.view(), {at}, rope);
    ops->Rotate(k.view(), {at - 9}, rope);
    double product = 0;
    for (int64_t i = 0; i < 64; ++i) product += static_cast<double>(q.at(0, i)) * k.at(0, i);
    if (at == 9) first = product;
    EXPECT_NEAR(product, first, 1e-3);
  }
}

TEST(OpsTest, DeviationIsTheSquaredDistance) {
  const std::unique_ptr<Ops> ops = MakeCpuOps(1);
  Numbers fresh(3, 20, 1), old(3, 20, 2);
  const std::vector<Bf16> cached = Narrow(old.values());
  std::vector<float> deviation(3);
  ops->Deviation(fresh.view(), cached.data(), absl::MakeSpan(deviation));
  for (int64_t r = 0; r < 3; ++r) {
    double sum = 0;
    for (int64_t i = 0; i < 20; ++i)
      sum += std::pow(fresh.at(r, i) - ToFloat(cached[r * 20 + i]), 2);
    EXPECT_NEAR(deviation[r], sum, 1e-4);
  }
}

TEST(OpsTest, SummariesAreOfTheWholeRow) {
  const std::unique_ptr<Ops> ops = MakeCpuOps(2);
  for (const int64_t vocab : {1, 255, 1024, 2050}) {
    Numbers logits(3, vocab, 1);
    std::fill_n(logits.view().Row(1), vocab, 2.0f);
    std::fill_n(logits.view().Row(2), vocab, -std::numeric_limits<float>::infinity());
    logits.view().Row(2)[vocab / 2] = 0;
    const std::vector<float> temperatures = {0.5f, 1, 3};
    std::vector<double> memory(LogitsSummaries(nullptr, 3, vocab).Bytes() / sizeof(double) + 1);
    const LogitsSummaries summaries(memory.data(), 3, vocab);
    ops->SummarizeLogits(logits.view(), temperatures.data(), summaries);
    for (int64_t r = 0; r < 3; ++r) {
      const float* const row = logits.view().Row(r);
      const LogitsSummary summary = summaries.Of(r);
      std::vector<int32_t> order(vocab);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      ASSERT_EQ(summary.ids.size(), std::min<size_t>(vocab, 256));
      for (size_t i = 0; i < summary.ids.size(); ++i) {
        EXPECT_EQ(summary.ids[i], order[i]);
        EXPECT_EQ(summary.likeliest[i], row[order[i]]);
      }
      double sum = 0, want = 0, at_temperature = 0, want_at_temperature = 0;
      for (int64_t i = 0; i < vocab; ++i) {
        want += std::exp(double{row[i]});
        want_at_temperature += std::exp(row[i] / double{temperatures[r]});
      }
      for (size_t s = 0; s < summary.tops.size(); ++s) {
        if (std::isinf(summary.tops[s])) continue;
        sum += summary.masses[s] * std::exp(double{summary.tops[s]});
        at_temperature +=
            summary.masses_at_temperature[s] * std::exp(summary.tops[s] / double{temperatures[r]});
      }
      EXPECT_NEAR(sum, want, 1e-12 * want);
      EXPECT_NEAR(at_temperature, want_at_temperature, 1e-12 * want_at_temperature);
    }
  }
}

}  // namespace
}  // namespace tessera
