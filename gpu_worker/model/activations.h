// Owned activations.
#ifndef TESSERA_GPU_WORKER_MODEL_ACTIVATIONS_H_
#define TESSERA_GPU_WORKER_MODEL_ACTIVATIONS_H_

#include <cstdint>
#include <memory>

#include "gpu_worker/device/tensor.h"

namespace tessera {

// Owns the numbers behind a Matrix. Not cleared when made.
class Activations {
 public:
  Activations() = default;
  Activations(int64_t rows, int64_t cols)
      : numbers_(new float[rows * cols]), view_{numbers_.get(), rows, cols} {}

  operator Matrix() const { return view_; }  // NOLINT: a Matrix is its view
  const Matrix* operator->() const { return &view_; }
  Matrix view() const { return view_; }

  // Narrows the view to its last `count` rows.
  void KeepLastRows(int64_t count) { view_ = view_.Slice(view_.rows - count, count); }

 private:
  std::unique_ptr<float[]> numbers_;
  Matrix view_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_ACTIVATIONS_H_
