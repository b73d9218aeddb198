// Inner products with the rows of a weight, in an order of additions that depends on their length
// alone: a product has the same bits beside any others. Needs AVX2 and FMA.
#ifndef TESSERA_GPU_WORKER_DEVICE_CPU_DOT_H_
#define TESSERA_GPU_WORKER_DEVICE_CPU_DOT_H_

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "gpu_worker/device/tensor.h"

namespace tessera {

inline float SumOf(__m256 x) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}

inline __m256 LoadEight(const float* from) { return _mm256_loadu_ps(from); }
inline __m256 LoadEight(const Bf16* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// sums[r] = a[r] times b, n numbers each; a's rows are `stride` apart. More than three rows do not
// fit the registers.
template <int kRows, typename Number>
void DotRows(const float* a, int64_t stride, const Number* b, int64_t n, float* sums) {
  static_assert(kRows <= 3);
  constexpr int kLanes = std::is_same_v<Number, Bf16> ? 4 : 2;
  __m256 s[kRows][kLanes];
  for (auto& row : s) {
    for (__m256& lane : row) lane = _mm256_setzero_ps();
  }
  int64_t i = 0;
  for (; i + 8 * kLanes <= n; i += 8 * kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const __m256 eight = LoadEight(b + i + 8 * lane);
      for (int r = 0; r < kRows; ++r) {
        s[r][lane] =
            _mm256_fmadd_ps(_mm256_loadu_ps(a + r * stride + i + 8 * lane), eight, s[r][lane]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    __m256 sum = _mm256_add_ps(s[r][0], s[r][1]);
    if constexpr (kLanes == 4) sum = _mm256_add_ps(sum, _mm256_add_ps(s[r][2], s[r][3]));
    sums[r] = SumOf(sum);
  }
  for (; i < n; ++i) {
    float last = 0;
    if constexpr (std::is_same_v<Number, Bf16>) {
      last = ToFloat(b[i]);
    } else {
      last = b[i];
    }
    for (int r = 0; r < kRows; ++r) sums[r] = __builtin_fmaf(a[r * stride + i], last, sums[r]);
  }
}

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CPU_DOT_H_
