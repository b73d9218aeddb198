// Short vector loops of attention and SwiGLU. Plain code in a form that the compiler vectorises.
#ifndef TESSERA_GPU_WORKER_DEVICE_CPU_VECTOR_MATH_H_
#define TESSERA_GPU_WORKER_DEVICE_CPU_VECTOR_MATH_H_

#include <bit>
#include <cstdint>

namespace tessera {

// e^x within 2 ulp for x <= 88 or so (Cephes' expf: range reduction by ln 2 in two parts, a
// polynomial of degree 5); 0 below -87.
inline float FastExp(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float scaled = clamped * 1.44269504088896341f;
  const float whole =
      static_cast<float>(static_cast<int32_t>(scaled + (scaled < 0 ? -0.5f : 0.5f)));
  const float r = (clamped - whole * 0.693359375f) - whole * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.0f;
  const float power = std::bit_cast<float>((static_cast<int32_t>(whole) + 127) << 23);
  return x < -87.0f ? 0.0f : y * power;
}

inline float MaxOf(const float* x, int64_t n) {
  float most = x[0];
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// x = e^(x - top); returns the sum.
inline float ExpAndSum(float* x, int64_t n, float top) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    x[i] = FastExp(x[i] - top);
    sum += x[i];
  }
  return sum;
}

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CPU_VECTOR_MATH_H_
