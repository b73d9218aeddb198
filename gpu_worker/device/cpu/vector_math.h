// Short vector loops of attention and SwiGLU, eight numbers at a time.
#ifndef TESSERA_GPU_WORKER_DEVICE_CPU_VECTOR_MATH_H_
#define TESSERA_GPU_WORKER_DEVICE_CPU_VECTOR_MATH_H_

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

namespace tessera {

// e^x within 2 ulp for x <= 88 (Cephes' expf: range reduction by ln 2 in two parts, a polynomial of
// degree 5); 0 below -87.
inline __m256 Exp8(__m256 x) {
  const __m256 lowest = _mm256_set1_ps(-87.0f);
  const __m256 low = _mm256_cmp_ps(x, lowest, _CMP_LT_OQ);
  x = _mm256_min_ps(_mm256_max_ps(x, lowest), _mm256_set1_ps(88.0f));
  const __m256 whole = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)),
                                       _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(whole, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(whole, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
  p = _mm256_fmadd_ps(_mm256_mul_ps(p, r), r, _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
  const __m256i power =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
  return _mm256_andnot_ps(low, _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
}

// Runs body(pointer to eight numbers) over x[0 .. n), the last few in a copy whose rest is
// `filler`.
template <typename Body>
void ByEights(float* x, int64_t n, float filler, const Body& body) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) body(x + i);
  if (i == n) return;
  float rest[8];
  std::fill(rest, rest + 8, filler);
  std::copy(x + i, x + n, rest);
  body(rest);
  std::copy(rest, rest + (n - i), x + i);
}

inline float MaxOf(const float* x, int64_t n) {
  float most = x[0];
  int64_t i = 0;
  if (n >= 8) {
    __m256 eight = _mm256_loadu_ps(x);
    for (i = 8; i + 8 <= n; i += 8) eight = _mm256_max_ps(eight, _mm256_loadu_ps(x + i));
    float lanes[8];
    _mm256_storeu_ps(lanes, eight);
    most = *std::max_element(lanes, lanes + 8);
  }
  for (; i < n; ++i) most = std::max(most, x[i]);
  return most;
}

// x = e^(x - top); returns the sum.
inline float ExpAndSum(float* x, int64_t n, float top) {
  const __m256 tops = _mm256_set1_ps(top);
  __m256 sums = _mm256_setzero_ps();
  // The filler's exponentials are 0.
  ByEights(x, n, top - 200.0f, [&](float* eight) {
    const __m256 e = Exp8(_mm256_sub_ps(_mm256_loadu_ps(eight), tops));
    _mm256_storeu_ps(eight, e);
    sums = _mm256_add_ps(sums, e);
  });
  float lanes[8];
  _mm256_storeu_ps(lanes, sums);
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
         ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// gate = silu(gate) * up, eight numbers.
inline void SwiGlu8(float* gate, const float* up) {
  const __m256 x = _mm256_loadu_ps(gate), one = _mm256_set1_ps(1.0f);
  const __m256 e = Exp8(_mm256_sub_ps(_mm256_setzero_ps(), x));
  const __m256 silu = _mm256_div_ps(x, _mm256_add_ps(one, e));
  _mm256_storeu_ps(gate, _mm256_mul_ps(silu, _mm256_loadu_ps(up)));
}

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CPU_VECTOR_MATH_H_
