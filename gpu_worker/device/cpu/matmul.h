// Products with weights, by oneDNN; and the matrix-vector product of a decode step.
#ifndef TESSERA_GPU_WORKER_DEVICE_CPU_MATMUL_H_
#define TESSERA_GPU_WORKER_DEVICE_CPU_MATMUL_H_

#include <memory>

#include "absl/types/span.h"
#include "gpu_worker/device/cpu/parallel.h"
#include "gpu_worker/device/tensor.h"

namespace tessera {

// One caller at a time. Weights stay as they are mapped: they are cut into panels of rows, one task
// each, and a panel is widened to f32 just before its product where the processor has no bf16
// arithmetic.
class MatMul {
 public:
  explicit MatMul(Parallel* parallel);
  ~MatMul();

  // True when products are made from bf16 operands (f32 sums).
  bool uses_bf16() const;

  // out (+)= x w^T + bias.
  void Run(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate, Matrix out);

  // The same; a row of it has the same bits whatever other rows there are.
  void RunByRow(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                Matrix out);

 private:
  class Bf16Products;

  template <typename Number>
  void RunRows(Matrix x, const Number* w, bool accumulate, Matrix out);
  void AddBias(absl::Span<const float> bias, Matrix out);
  void RunPanels(Matrix x, const Weight& w, bool accumulate, Matrix out);
  static void RunWidePanel(Matrix x, const Weight& w, int64_t first, int64_t last, bool accumulate,
                           Matrix out);

  Parallel* const parallel_;
  std::unique_ptr<Bf16Products> bf16_;  // null without bf16 arithmetic
};

// c = alpha a b^T + beta c on the calling thread; a [m][k] with row stride lda, b [n][k] with ldb.
void ProductTransposed(int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                       const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

// c = a b + beta c on the calling thread; a [m][k] with row stride lda, b [k][n] with ldb.
void Product(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
             int64_t ldb, float beta, float* c, int64_t ldc);

// Widens n numbers.
void Widen(const Bf16* from, int64_t n, float* to);

// Inner product of n numbers.
float Dot(const float* a, const float* b, int64_t n);
float Dot(const float* a, const Bf16* b, int64_t n);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_DEVICE_CPU_MATMUL_H_
