// Ops::Correct against its formula in double precision, solved by Gauss elimination.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "gpu_worker/device/ops.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr int64_t kHeads = 2, kHeadDim = 8, kWidth = kHeads * kHeadDim, kStart = 5;

using Rows = std::vector<std::vector<double>>;

Rows Random(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Rows x(rows, std::vector<double>(cols));
  for (auto& row : x) {
    for (double& v : row) v = ToFloat(ToBf16(static_cast<float>(normal(random))));
  }
  return x;
}

// matrix^-1 right.
Rows Solve(Rows matrix, Rows right) {
  const size_t n = matrix.size();
  for (size_t i = 0; i < n; ++i) {
    for (size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double factor = matrix[r][i] / matrix[i][i];
      for (size_t c = 0; c < n; ++c) matrix[r][c] -= factor * matrix[i][c];
      for (size_t c = 0; c < right[r].size(); ++c) right[r][c] -= factor * right[i][c];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (double& x : right[i]) x /= matrix[i][i];
  }
  return right;
}

double MeanNorm(const Rows& x) {
  double sum = 0;
  for (const auto& row : x) {
    double square = 0;
    for (double v : row) square += v * v;
    sum += std::sqrt(square);
  }
  return sum / x.size();
}

double DotOf(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Shortens the rows (K, then V) that are longer than twice the lower median.
void Bound(double norm_k, double norm_v, Rows& deviation) {
  std::vector<double> norms;
  for (const auto& row : deviation) {
    double square = 0;
    for (int64_t i = 0; i < kWidth; ++i) {
      square += std::pow(row[i] / norm_k, 2) + std::pow(row[kWidth + i] / norm_v, 2);
    }
    norms.push_back(std::sqrt(square));
  }
  std::vector<double> sorted = norms;
  std::sort(sorted.begin(), sorted.end());
  const double longest = 2 * sorted[(sorted.size() - 1) / 2];
  for (size_t r = 0; r < deviation.size(); ++r) {
    for (double& x : deviation[r]) x *= std::min(1.0, longest / norms[r]);
  }
}

// What is added to every row's (K before RoPE, V), [rows][2 * width].
Rows Expected(const Rows& k, const Rows& v, const std::vector<int32_t>& picked, Rows deviation) {
  const double norm_k = MeanNorm(k), norm_v = MeanNorm(v);
  Bound(norm_k, norm_v, deviation);
  Rows f(k.size());
  for (size_t r = 0; r < k.size(); ++r) {
    for (double x : k[r]) f[r].push_back(x / norm_k);
    for (double x : v[r]) f[r].push_back(x / norm_v);
  }
  std::vector<double> mean(2 * kWidth, 0.0);
  for (int32_t r : picked) {
    for (int64_t i = 0; i < 2 * kWidth; ++i) mean[i] += f[r][i] / picked.size();
  }
  for (auto& row : f) {
    for (int64_t i = 0; i < 2 * kWidth; ++i) row[i] -= mean[i];
  }
  double s = 0;
  for (int32_t r : picked) s += DotOf(f[r], f[r]) / picked.size();
  auto kernel = [&](int64_t a, int64_t b) {
    return DotOf(f[a], f[b]) / s + 2 * std::exp(-std::abs(static_cast<double>(a - b)) / 64) + 1;
  };
  Rows among(picked.size(), std::vector<double>(picked.size()));
  for (size_t i = 0; i < picked.size(); ++i) {
    for (size_t j = 0; j < picked.size(); ++j)
      among[i][j] = kernel(picked[i], picked[j]) + (i == j ? 3 : 0);
  }
  const Rows weights = Solve(among, deviation);
  Rows change(k.size(), std::vector<double>(2 * kWidth, 0.0));
  for (size_t r = 0; r < k.size(); ++r) {
    for (size_t j = 0; j < picked.size(); ++j) {
      for (int64_t i = 0; i < 2 * kWidth; ++i) change[r][i] += kernel(r, picked[j]) * weights[j][i];
    }
  }
  return change;
}

// Fresh minus cached, (K, V) joined.
Rows Deviations(const Rows& k, const Rows& v, const std::vector<int32_t>& picked,
                const Rows& fresh_k, const Rows& fresh_v) {
  Rows deviation(picked.size());
  for (size_t i = 0; i < picked.size(); ++i) {
    for (int64_t j = 0; j < kWidth; ++j) deviation[i].push_back(fresh_k[i][j] - k[picked[i]][j]);
    for (int64_t j = 0; j < kWidth; ++j) deviation[i].push_back(fresh_v[i][j] - v[picked[i]][j]);
  }
  return deviation;
}

std::vector<Bf16> Narrow(const Rows& x, size_t first, size_t last) {
  std::vector<Bf16> narrow;
  for (size_t r = first; r < last; ++r) {
    for (double v : x[r]) narrow.push_back(ToBf16(static_cast<float>(v)));
  }
  return narrow;
}

std::vector<float> Flat(const Rows& x) {
  std::vector<float> flat;
  for (const auto& row : x) flat.insert(flat.end(), row.begin(), row.end());
  return flat;
}

class CorrectionTest : public ::testing::Test {
 protected:
  // Runs the op for a chunk of two pieces and returns the change of K (rotated back) and V.
  Rows Run(const Rows& k, const Rows& v, const std::vector<int32_t>& picked, const Rows& fresh_k,
           const Rows& fresh_v) {
    const auto n = static_cast<int64_t>(k.size()), cut = std::min<int64_t>(n, 9);
    const std::vector<Bf16> k0 = Narrow(k, 0, cut), v0 = Narrow(v, 0, cut), k1 = Narrow(k, cut, n),
                            v1 = Narrow(v, cut, n);
    CorrectionTask task{
        {{k0.data(), v0.data(), cut}, {k1.data(), v1.data(), n - cut}}, kStart, picked, {}};
    for (size_t i = 0; i < picked.size(); ++i) task.fresh_rows.push_back(static_cast<int32_t>(i));
    const int64_t capacity = n + kStart + 2;
    std::vector<float> memory_k(capacity * kWidth, 0.0f), memory_v(capacity * kWidth, 0.0f);
    std::vector<float> fk = Flat(fresh_k), fv = Flat(fresh_v);
    const LayerKv kv{memory_k.data(), memory_v.data(), capacity, kHeads, kHeadDim};
    RopeTable rope;
    rope.half_dim = kHeadDim / 2;
    for (int64_t i = 0; i < capacity * rope.half_dim; ++i) {
      rope.cos.push_back(std::cos(0.1f * i));
      rope.sin.push_back(std::sin(0.1f * i));
    }
    const auto rows = static_cast<int64_t>(picked.size());
    MakeCpuOps(2)->Correct({task}, {fk.data(), rows, kWidth}, {fv.data(), rows, kWidth},
                           CorrectionConstants(), rope, kv);
    Rows change(n, std::vector<double>(2 * kWidth));
    for (int64_t r = 0; r < n; ++r) {
      const float* cos = rope.cos.data() + (kStart + r) * rope.half_dim;
      const float* sin = rope.sin.data() + (kStart + r) * rope.half_dim;
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t j = 0; j < rope.half_dim; ++j) {
          const double a = kv.K(h, kStart + r)[j], b = kv.K(h, kStart + r)[j + rope.half_dim];
          change[r][h * kHeadDim + j] = a * cos[j] + b * sin[j];
          change[r][h * kHeadDim + j + rope.half_dim] = b * cos[j] - a * sin[j];
        }
        for (int64_t j = 0; j < kHeadDim; ++j) {
          change[r][kWidth + h * kHeadDim + j] = kv.V(h, kStart + r)[j];
        }
      }
    }
    return change;
  }
};

TEST_F(CorrectionTest, CarriesTheDeviationByKernelRidgeRegression) {
  const Rows k = Random(23, kWidth, 1), v = Random(23, kWidth, 2);
  const std::vector<int32_t> picked = {0, 3, 4, 11, 17, 22};
  Rows fresh_k = Random(6, kWidth, 3), fresh_v = Random(6, kWidth, 4);
  for (double& x : fresh_v[2]) x *= 20;  // an outlier, for the bound to shorten
  const Rows expected = Expected(k, v, picked, Deviations(k, v, picked, fresh_k, fresh_v)),
             got = Run(k, v, picked, fresh_k, fresh_v);
  for (size_t r = 0; r < got.size(); ++r) {
    for (size_t j = 0; j < got[r].size(); ++j)
      ASSERT_NEAR(got[r][j], expected[r][j], 1e-4) << r << " " << j;
  }
}

// However far one row moved, the others follow it no further than twice what is usual.
TEST_F(CorrectionTest, AnOutlierMovesTheOthersNoFurtherThanTheBound) {
  const Rows k = Random(23, kWidth, 1), v = Random(23, kWidth, 2);
  const std::vector<int32_t> picked = {0, 3, 4, 11, 17, 22};
  Rows far_k = Random(6, kWidth, 3), far_v = Random(6, kWidth, 4);
  const std::vector<double> near_k = far_k[3], near_v = far_v[3];
  auto outlier = [&](double times) {
    for (int64_t i = 0; i < kWidth; ++i) {
      far_k[3][i] = k[11][i] + times * (near_k[i] - k[11][i]);
      far_v[3][i] = v[11][i] + times * (near_v[i] - v[11][i]);
    }
    return Run(k, v, picked, far_k, far_v);
  };
  const Rows ten = outlier(10), thousand = outlier(1000), usual = outlier(1);
  double changed = 0;
  for (size_t r = 0; r < ten.size(); ++r) {
    for (size_t j = 0; j < ten[r].size(); ++j) {
      ASSERT_NEAR(ten[r][j], thousand[r][j], 1e-3) << r << " " << j;
      changed = std::max(changed, std::abs(ten[r][j] - usual[r][j]));
    }
  }
  EXPECT_GT(changed, 0.01);  // it does count, as far as the bound
}

TEST_F(CorrectionTest, LeavesAChunkWithFewPickedRows) {
  const Rows k = Random(23, kWidth, 1), v = Random(23, kWidth, 2);
  for (const auto& row : Run(k, v, {0, 3, 4}, Random(3, kWidth, 3), Random(3, kWidth, 4))) {
    for (double x : row) ASSERT_EQ(x, 0);
  }
}

TEST_F(CorrectionTest, AChunkOfZerosStaysFinite) {
  const Rows zero(12, std::vector<double>(kWidth, 0.0));
  for (const auto& row :
       Run(zero, zero, {0, 3, 4, 7}, Random(4, kWidth, 3), Random(4, kWidth, 4))) {
    for (double x : row) ASSERT_TRUE(std::isfinite(x));
  }
}

}  // namespace
}  // namespace tessera
