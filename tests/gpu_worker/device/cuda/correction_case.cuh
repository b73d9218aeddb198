// Random inputs of the correction, and what it should make of them: a plain double-precision
// correction from the same bf16 numbers.
#ifndef TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_CORRECTION_CASE_CUH_
#define TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_CORRECTION_CASE_CUH_

#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/correction.h"

namespace tessera::cuda {

using Bf16Vector = std::vector<__nv_bfloat16>;

inline float F(__nv_bfloat16 x) { return __bfloat162float(x); }
inline __nv_bfloat16 B(double x) { return __float2bfloat16(static_cast<float>(x)); }

struct ChunkCase {
  std::vector<int32_t> pieces;
  int32_t p = 0;
  bool with_nan = false;
};

struct Case {
  int kv_heads = 1;
  int head_dim = 128;
  std::vector<ChunkCase> chunks;
  int layers = 2;
  int layers_at_once = 2;
  int outliers = 0;  // of a chunk's picked rows
  bool zero_kv = true;
  bool with_blocks = true;
  bool same_v = false;  // V of all cached rows is zero
  int64_t first_position = 37;

  int width() const { return kv_heads * head_dim; }
};

// One chunk's values: K and V joined, [layer][row][2 * width]; fresh likewise, [layer][p][...].
struct ChunkValues {
  int32_t n = 0;
  int64_t first_position = 0;
  int64_t first_row = 0;  // of its picked rows in the fresh matrices, which they have shuffled
  std::vector<int32_t> picked, fresh_rows;
  std::vector<Bf16Vector> cached, fresh;
};

// The inputs of a case, and its KV memory before and after. Rows of a layer's fresh matrices stand
// 8 numbers apart.
struct Inputs {
  explicit Inputs(const Case& c, unsigned seed);

  Case c;
  std::vector<ChunkValues> chunks;
  int64_t slots = 0, blocks = 0, fresh_rows = 0, stride = 0;
  std::vector<int32_t> table;
  std::vector<float> cos, sin;
  std::vector<Bf16Vector> fresh_k, fresh_v, kv_k, kv_v;  // [layer]

  int64_t KvRow(int head, int64_t slot) const {
    if (!c.with_blocks) return head * blocks * 64 + slot;
    return head * blocks * 64 + int64_t{table[slot / 64]} * 64 + slot % 64;
  }
};

// Rows that drift slowly along the chunk about a mean of a few large channels.
inline void DrawCached(std::mt19937& random, int width, bool zero_v, int32_t n, Bf16Vector& to) {
  std::normal_distribution<float> normal;
  std::vector<float> mean(2 * width), drift(2 * width);
  for (float& x : mean) x = normal(random) * (random() % 16 == 0 ? 8 : 0.5f);
  to.resize(int64_t{n} * 2 * width);
  for (int32_t r = 0; r < n; ++r) {
    for (int j = 0; j < 2 * width; ++j) {
      drift[j] = 0.97f * drift[j] + 0.25f * normal(random);
      const float scale = j < width ? 1.0f : 0.1f;
      const bool zero = zero_v && j >= width;
      to[int64_t{r} * 2 * width + j] =
          B(zero ? 0 : scale * (mean[j] + drift[j] + 0.5f * normal(random)));
    }
  }
}

inline Inputs::Inputs(const Case& given, unsigned seed) : c(given) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const int width = c.width();
  int64_t position = c.first_position;
  for (const ChunkCase& chunk : c.chunks) {
    ChunkValues values;
    values.n = std::accumulate(chunk.pieces.begin(), chunk.pieces.end(), 0);
    values.first_position = position;
    position += values.n;
    values.first_row = fresh_rows;
    fresh_rows += chunk.p;
    std::vector<int32_t> rows(values.n);
    std::iota(rows.begin(), rows.end(), 0);
    std::shuffle(rows.begin(), rows.end(), random);
    values.picked.assign(rows.begin(), rows.begin() + chunk.p);
    std::sort(values.picked.begin(), values.picked.end());
    chunks.push_back(values);
  }
  slots = position + 5;
  blocks = (slots + 63) / 64 + 3;
  table.resize(blocks);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), random);
  const int half = c.head_dim / 2;
  for (int64_t s = 0; s < slots; ++s) {
    for (int j = 0; j < half; ++j) {
      const double angle = s * std::pow(10000.0, -2.0 * j / c.head_dim);
      cos.push_back(static_cast<float>(std::cos(angle)));
      sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  std::vector<int32_t> order(fresh_rows);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  stride = width + 8;
  for (int layer = 0; layer < c.layers; ++layer) {
    Bf16Vector k(fresh_rows * stride, B(NAN)), v = k;
    for (size_t i = 0; i < chunks.size(); ++i) {
      ChunkValues& chunk = chunks[i];
      Bf16Vector cached;
      DrawCached(random, width, c.same_v, chunk.n, cached);
      std::vector<float> shift(2 * width);
      for (float& x : shift) x = 0.3f * normal(random);
      for (int32_t at = 0; at < c.chunks[i].p; ++at) {
        const int32_t row = order[chunk.first_row + at];
        if (layer == 0) chunk.fresh_rows.push_back(row);
        const float longer = at < c.outliers ? 20.0f : 1.0f;
        for (int j = 0; j < 2 * width; ++j) {
          const float scale = j < width ? 1.0f : 0.1f;
          const float fresh = F(cached[int64_t{chunk.picked[at]} * 2 * width + j]) +
                              longer * scale * (shift[j] + 0.3f * normal(random));
          (j < width ? k : v)[row * stride + j % width] = B(fresh);
        }
      }
      if (c.chunks[i].with_nan) cached[(int64_t{chunk.picked[1]} * 2 + 1) * width + 3] = B(NAN);
      chunk.cached.push_back(cached);
    }
    fresh_k.push_back(k);
    fresh_v.push_back(v);
    Bf16Vector kv(c.kv_heads * blocks * 64 * c.head_dim);
    for (__nv_bfloat16& x : kv) x = B(c.zero_kv ? 0 : normal(random));
    kv_k.push_back(kv);
    for (__nv_bfloat16& x : kv) x = B(c.zero_kv ? 0 : normal(random));
    kv_v.push_back(kv);
  }
}

using Doubles = std::vector<double>;

// The scaled deviations, bounded; `features` are the cached rows over their mean norms.
inline Doubles BoundedDeviations(const Inputs& in, const ChunkValues& chunk, int layer,
                                 double scale_k, double scale_v) {
  const int width = in.c.width();
  const int64_t p = static_cast<int64_t>(chunk.picked.size());
  Doubles deviation(p * 2 * width), norms(p);
  for (int64_t i = 0; i < p; ++i) {
    for (int j = 0; j < 2 * width; ++j) {
      const Bf16Vector& fresh = j < width ? in.fresh_k[layer] : in.fresh_v[layer];
      const double d = F(fresh[chunk.fresh_rows[i] * in.stride + j % width]) -
                       F(chunk.cached[layer][int64_t{chunk.picked[i]} * 2 * width + j]);
      deviation[i * 2 * width + j] = d;
      norms[i] += std::pow(d * (j < width ? scale_k : scale_v), 2);
    }
    norms[i] = std::sqrt(norms[i]);
  }
  Doubles sorted = norms;
  std::sort(sorted.begin(), sorted.end());
  const double longest = in.c.layers == 0 ? 0 : CorrectionRule().bound * sorted[(p - 1) / 2];
  for (int64_t i = 0; i < p; ++i) {
    if (norms[i] <= longest) continue;
    for (int j = 0; j < 2 * width; ++j) deviation[i * 2 * width + j] *= longest / norms[i];
  }
  return deviation;
}

// Solves a x = b in place for the rows of b, a symmetric positive definite.
inline void Solve(int64_t n, Doubles& a, int64_t width, Doubles& b) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t r = i + 1; r < n; ++r) {
      const double factor = a[r * n + i] / a[i * n + i];
      for (int64_t j = i; j < n; ++j) a[r * n + j] -= factor * a[i * n + j];
      for (int64_t j = 0; j < width; ++j) b[r * width + j] -= factor * b[i * width + j];
    }
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    for (int64_t r = i + 1; r < n; ++r) {
      for (int64_t j = 0; j < width; ++j) b[i * width + j] -= a[i * n + r] * b[r * width + j];
    }
    for (int64_t j = 0; j < width; ++j) b[i * width + j] /= a[i * n + i];
  }
}

// change [n][2 * width], K not yet rotated.
inline Doubles Change(const Inputs& in, const ChunkValues& chunk, int layer) {
  const int width = in.c.width(), both = 2 * width;
  const int64_t n = chunk.n, p = static_cast<int64_t>(chunk.picked.size());
  const CorrectionRule rule;
  Doubles f(n * both), mean(both);
  double norm_k = 0, norm_v = 0;
  for (int64_t r = 0; r < n; ++r) {
    double k = 0, v = 0;
    for (int j = 0; j < both; ++j) {
      f[r * both + j] = F(chunk.cached[layer][r * both + j]);
      (j < width ? k : v) += f[r * both + j] * f[r * both + j];
    }
    norm_k += std::sqrt(k);
    norm_v += std::sqrt(v);
  }
  const double scale_k = norm_k > 0 ? n / norm_k : 0, scale_v = norm_v > 0 ? n / norm_v : 0;
  Doubles solved = BoundedDeviations(in, chunk, layer, scale_k, scale_v);
  for (int64_t i = 0; i < n * both; ++i) f[i] *= i % both < width ? scale_k : scale_v;
  for (int32_t r : chunk.picked) {
    for (int j = 0; j < both; ++j) mean[j] += f[r * both + j] / p;
  }
  for (int64_t i = 0; i < n * both; ++i) f[i] -= mean[i % both];
  double square = 0;
  for (int32_t r : chunk.picked) {
    for (int j = 0; j < both; ++j) square += f[r * both + j] * f[r * both + j] / p;
  }
  Doubles kernel(n * p), among(p * p);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t i = 0; i < p; ++i) {
      double sum = 0;
      const double *a = &f[r * both], *b = &f[chunk.picked[i] * int64_t{both}];
      for (int j = 0; j < both; ++j) sum += a[j] * b[j];
      kernel[r * p + i] = (square > 0 ? sum / square : 0) + 1 +
                          rule.nearness * std::exp(-std::abs(r - chunk.picked[i]) / rule.length);
    }
  }
  for (int64_t i = 0; i < p; ++i) {
    for (int64_t j = 0; j < p; ++j) {
      among[i * p + j] = kernel[chunk.picked[i] * p + j] + (i == j ? rule.noise : 0);
    }
  }
  Solve(p, among, both, solved);
  Doubles change(n * both);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t i = 0; i < p; ++i) {
      const double weight = kernel[r * p + i];
      for (int j = 0; j < both; ++j) change[r * both + j] += weight * solved[i * both + j];
    }
  }
  return change;
}

// What the KV memory gained over what it should have, by Frobenius norms; -1 when a slot that no
// chunk has was written.
inline double RelativeError(const Inputs& in, int layer, const Bf16Vector& k, const Bf16Vector& v) {
  const int width = in.c.width(), dim = in.c.head_dim, half = dim / 2;
  double wrong = 0, right = 0;
  std::vector<bool> seen(k.size());
  for (size_t i = 0; i < in.chunks.size(); ++i) {
    const ChunkValues& chunk = in.chunks[i];
    const int p = static_cast<int>(chunk.picked.size());
    if (p < CorrectionRule().fewest || in.c.chunks[i].with_nan) continue;
    const Doubles change = Change(in, chunk, layer);
    for (int32_t r = 0; r < chunk.n; ++r) {
      const int64_t slot = chunk.first_position + r;
      for (int at = 0; at < 2 * width; ++at) {
        const int head = at % width / dim, j = at % dim;
        double want = change[int64_t{r} * 2 * width + at];
        if (at < width) {
          const double cos = in.cos[slot * half + j % half], sin = in.sin[slot * half + j % half];
          const double other = change[int64_t{r} * 2 * width + (j < half ? at + half : at - half)];
          want = j < half ? want * cos - other * sin : want * cos + other * sin;
        }
        const int64_t place = in.KvRow(head, slot) * dim + j;
        seen[place] = true;
        const double before = F((at < width ? in.kv_k : in.kv_v)[layer][place]);
        const double gained = F((at < width ? k : v)[place]) - before;
        wrong += (gained - want) * (gained - want);
        right += want * want;
      }
    }
  }
  for (size_t i = 0; i < k.size(); ++i) {
    if (!seen[i] && (F(k[i]) != F(in.kv_k[layer][i]) || F(v[i]) != F(in.kv_v[layer][i]))) return -1;
  }
  return right > 0 ? std::sqrt(wrong / right) : std::sqrt(wrong);
}

}  // namespace tessera::cuda

#endif  // TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_CORRECTION_CASE_CUH_
