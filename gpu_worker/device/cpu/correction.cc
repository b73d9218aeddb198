#include "gpu_worker/device/cpu/correction.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "glog/logging.h"
#include "gpu_worker/device/cpu/matmul.h"
#include "gpu_worker/device/cpu/rope.h"

namespace tessera {
namespace {

// A chunk's cached K (before RoPE) and V of one layer, widened and joined: [rows][2 * width].
struct Cached {
  int64_t rows = 0;
  int64_t width = 0;  // of K, and of V
  std::vector<float> values;

  float* Row(int64_t r) { return values.data() + r * 2 * width; }
};

Cached WidenChunk(const CorrectionTask& task, int64_t width) {
  Cached cached;
  cached.width = width;
  for (const SliceView& piece : task.pieces) cached.rows += piece.tokens;
  cached.values.resize(cached.rows * 2 * width);
  int64_t row = 0;
  for (const SliceView& piece : task.pieces) {
    for (int64_t t = 0; t < piece.tokens; ++t, ++row) {
      Widen(piece.k + t * width, width, cached.Row(row));
      Widen(piece.v + t * width, width, cached.Row(row) + width);
    }
  }
  return cached;
}

// deviation[picked][2 * width]: fresh minus cached.
std::vector<float> Deviations(const CorrectionTask& task, Cached& cached, Matrix fresh_k,
                              Matrix fresh_v) {
  const int64_t width = cached.width;
  std::vector<float> deviation(task.picked.size() * 2 * width);
  for (size_t i = 0; i < task.picked.size(); ++i) {
    const float* old = cached.Row(task.picked[i]);
    const float* k = fresh_k.Row(task.fresh_rows[i]);
    const float* v = fresh_v.Row(task.fresh_rows[i]);
    float* to = deviation.data() + i * 2 * width;
    for (int64_t j = 0; j < width; ++j) {
      to[j] = k[j] - old[j];
      to[width + j] = v[j] - old[width + j];
    }
  }
  return deviation;
}

// One over the mean norm of a chunk's rows of K, and of V.
struct Scales {
  float k = 0;
  float v = 0;
};

Scales ScalesOf(Cached& cached) {
  const int64_t width = cached.width;
  double norm_k = 0, norm_v = 0;
  for (int64_t r = 0; r < cached.rows; ++r) {
    const float* row = cached.Row(r);
    norm_k += std::sqrt(Dot(row, row, width));
    norm_v += std::sqrt(Dot(row + width, row + width, width));
  }
  // A chunk of zeros has no direction; its features stay zero.
  return {norm_k > 0 ? static_cast<float>(cached.rows / norm_k) : 0,
          norm_v > 0 ? static_cast<float>(cached.rows / norm_v) : 0};
}

// Shortens the deviations whose norm is above `bound` times the median one.
void BoundDeviations(const Scales& scales, float bound, int64_t width,
                     std::vector<float>& deviation) {
  const size_t picked = deviation.size() / (2 * width);
  std::vector<float> norms(picked);
  for (size_t i = 0; i < picked; ++i) {
    const float *k = deviation.data() + i * 2 * width, *v = k + width;
    norms[i] =
        std::sqrt(scales.k * scales.k * Dot(k, k, width) + scales.v * scales.v * Dot(v, v, width));
    // NaN would have no place in the order below.
    if (std::isnan(norms[i])) norms[i] = std::numeric_limits<float>::infinity();
  }
  std::vector<float> sorted = norms;
  const auto middle = sorted.begin() + static_cast<int64_t>((picked - 1) / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  const float longest = bound * *middle;
  for (size_t i = 0; i < picked; ++i) {
    if (norms[i] <= longest) continue;
    float* row = deviation.data() + i * 2 * width;
    for (int64_t j = 0; j < 2 * width; ++j) row[j] *= longest / norms[i];
  }
}

// Turns cached values into features in place: K and V over their mean norms, minus the picked rows'
// mean. Returns s, the mean square of the picked rows' features.
float MakeFeatures(absl::Span<const int32_t> picked, const Scales& scales, Cached& cached) {
  const int64_t width = cached.width;
  std::vector<float> mean(2 * width, 0.0f);
  for (int64_t r = 0; r < cached.rows; ++r) {
    float* row = cached.Row(r);
    for (int64_t j = 0; j < width; ++j) row[j] *= scales.k;
    for (int64_t j = width; j < 2 * width; ++j) row[j] *= scales.v;
  }
  const float share = 1.0f / static_cast<float>(picked.size());
  for (int32_t r : picked) {
    for (int64_t j = 0; j < 2 * width; ++j) mean[j] += cached.Row(r)[j] * share;
  }
  for (int64_t r = 0; r < cached.rows; ++r) {
    for (int64_t j = 0; j < 2 * width; ++j) cached.Row(r)[j] -= mean[j];
  }
  float square = 0;
  for (int32_t r : picked) square += Dot(cached.Row(r), cached.Row(r), 2 * width) * share;
  return square;
}

// kernel[rows][picked].
std::vector<float> Kernel(absl::Span<const int32_t> picked, Cached& features, float square,
                          const CorrectionConstants& constants) {
  const int64_t p = static_cast<int64_t>(picked.size()), width = 2 * features.width;
  std::vector<float> chosen(p * width);
  for (int64_t i = 0; i < p; ++i) {
    std::copy_n(features.Row(picked[i]), width, chosen.data() + i * width);
  }
  std::vector<float> kernel(features.rows * p);
  const float scale = square > 0 ? 1.0f / square : 0;
  ProductTransposed(features.rows, p, width, scale, features.values.data(), width, chosen.data(),
                    width, 0.0f, kernel.data(), p);
  std::vector<float> nearness(features.rows);  // by distance
  for (int64_t d = 0; d < features.rows; ++d) {
    nearness[d] = constants.nearness * std::exp(-static_cast<float>(d) / constants.length) + 1.0f;
  }
  for (int64_t r = 0; r < features.rows; ++r) {
    for (int64_t i = 0; i < p; ++i) kernel[r * p + i] += nearness[std::abs(r - picked[i])];
  }
  return kernel;
}

// Replaces right [n][width] by matrix^-1 right; matrix [n][n] symmetric positive definite,
// destroyed. False when it is not, as with numbers that are not finite.
bool SolveByCholesky(int64_t n, std::vector<float>& matrix, int64_t width,
                     std::vector<float>& right) {
  auto at = [&](int64_t i, int64_t j) -> float& { return matrix[i * n + j]; };
  auto subtract = [&](int64_t to, float factor, int64_t from) {
    float* a = right.data() + to * width;
    const float* b = right.data() + from * width;
    for (int64_t j = 0; j < width; ++j) a[j] -= factor * b[j];
  };
  auto divide = [&](int64_t row, float by) {
    float* a = right.data() + row * width;
    for (int64_t j = 0; j < width; ++j) a[j] /= by;
  };
  for (int64_t i = 0; i < n; ++i) {  // lower factor, row by row
    for (int64_t j = 0; j < i; ++j) {
      at(i, j) = (at(i, j) - Dot(&at(i, 0), &at(j, 0), j)) / at(j, j);
    }
    const float rest = at(i, i) - Dot(&at(i, 0), &at(i, 0), i);
    if (!(rest > 0)) return false;
    at(i, i) = std::sqrt(rest);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) subtract(i, at(i, j), j);
    divide(i, at(i, i));
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    for (int64_t j = i + 1; j < n; ++j) subtract(i, at(j, i), j);
    divide(i, at(i, i));
  }
  return true;
}

// Adds change[rows][2 * width] to the chunk's rows in KV memory. K there is rotated; rotation is
// linear, so the change of the raw K is rotated and added.
void AddToKv(const CorrectionTask& task, int64_t rows, int64_t width, std::vector<float>& change,
             const RopeTable& rope, const LayerKv& kv) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t slot = task.first_position + r;
    float* dk = change.data() + r * 2 * width;
    const float* dv = dk + width;
    for (int64_t h = 0; h < kv.kv_heads; ++h) {
      RotateHead(rope, slot, dk + h * kv.head_dim);
      float *k = kv.K(h, slot), *v = kv.V(h, slot);
      for (int64_t j = 0; j < kv.head_dim; ++j) {
        k[j] += dk[h * kv.head_dim + j];
        v[j] += dv[h * kv.head_dim + j];
      }
    }
  }
}

void CorrectChunk(const CorrectionTask& task, Matrix fresh_k, Matrix fresh_v,
                  const CorrectionConstants& constants, const RopeTable& rope, const LayerKv& kv) {
  const int64_t p = static_cast<int64_t>(task.picked.size());
  const int64_t width = kv.kv_heads * kv.head_dim;
  if (p < constants.fewest || p > constants.most) return;
  Cached cached = WidenChunk(task, width);
  std::vector<float> weights = Deviations(task, cached, fresh_k, fresh_v);
  const Scales scales = ScalesOf(cached);
  BoundDeviations(scales, constants.bound, width, weights);
  const float square = MakeFeatures(task.picked, scales, cached);
  const std::vector<float> kernel = Kernel(task.picked, cached, square, constants);
  std::vector<float> among(p * p);
  for (int64_t i = 0; i < p; ++i) {
    std::copy_n(kernel.data() + task.picked[i] * p, p, among.data() + i * p);
    among[i * p + i] += constants.noise;
  }
  // A cache may hold anything; a chunk that cannot be corrected stays as it is.
  if (!SolveByCholesky(p, among, 2 * width, weights)) return;
  std::vector<float> change(cached.rows * 2 * width);
  Product(cached.rows, 2 * width, p, kernel.data(), p, weights.data(), 2 * width, 0.0f,
          change.data(), 2 * width);
  AddToKv(task, cached.rows, width, change, rope, kv);
}

}  // namespace

void CorrectOnCpu(Parallel& parallel, absl::Span<const CorrectionTask> tasks, Matrix fresh_k,
                  Matrix fresh_v, const CorrectionConstants& constants, const RopeTable& rope,
                  const LayerKv& kv) {
  parallel.For(static_cast<int64_t>(tasks.size()),
               [&](int64_t i) { CorrectChunk(tasks[i], fresh_k, fresh_v, constants, rope, kv); });
}

}  // namespace tessera
