// Views of numbers in a device's memory. They own nothing.
#ifndef TESSERA_GPU_WORKER_DEVICE_TENSOR_H_
#define TESSERA_GPU_WORKER_DEVICE_TENSOR_H_

#include <bit>
#include <cstdint>

namespace tessera {

enum class DType { kF32, kBf16 };

inline int64_t BytesPer(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

// The upper half of a float: 8 bits of exponent, 7 of mantissa.
using Bf16 = uint16_t;

inline float ToFloat(Bf16 x) { return std::bit_cast<float>(uint32_t{x} << 16); }

// Rounds to nearest, ties to even. NaN stays NaN.
inline Bf16 ToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<Bf16>((bits >> 16) | 0x40);
  return static_cast<Bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Activations: row-major; row r begins `step()` numbers behind row r - 1. On a device whose memory
// the program cannot read, `memory` is an address there.
struct Matrix {
  void* memory = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // 0: cols, rows one after the other
  DType dtype = DType::kF32;

  int64_t step() const { return stride == 0 ? cols : stride; }
  // The numbers and row r of f32 rows one after the other, on the CPU.
  float* data() const { return static_cast<float*>(memory); }
  float* Row(int64_t r) const { return data() + r * cols; }
  void* At(int64_t row, int64_t col) const {
    return static_cast<char*>(memory) + (row * step() + col) * BytesPer(dtype);
  }
  // Rows, and columns, first .. first + count.
  Matrix Slice(int64_t first, int64_t count) const {
    return {At(first, 0), count, cols, stride, dtype};
  }
  Matrix Columns(int64_t first, int64_t count) const {
    return {At(0, first), rows, count, step(), dtype};
  }
};

// A weight of the model: [rows = outputs][cols = inputs], as the model file holds it (often
// mapped).
struct Weight {
  const void* data = nullptr;
  DType dtype = DType::kBf16;
  int64_t rows = 0;
  int64_t cols = 0;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_TENSOR_H_
