// Owned activations and indices, in a device's memory.
#ifndef TESSERA_GPU_WORKER_MODEL_ACTIVATIONS_H_
#define TESSERA_GPU_WORKER_MODEL_ACTIVATIONS_H_

#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/device/tensor.h"

namespace tessera {

// Owns the numbers behind a Matrix, or a share of them. Not cleared when made.
class Activations {
 public:
  Activations() = default;
  // f32, in the program's own memory.
  Activations(int64_t rows, int64_t cols) : Activations(HostMemory(), DType::kF32, rows, cols) {}
  Activations(DeviceMemory& memory, DType dtype, int64_t rows, int64_t cols)
      : numbers_(AllocateShared(memory, rows * cols * BytesPer(dtype))),
        view_{numbers_.get(), rows, cols, 0, dtype} {}

  // f32, in memory of the program from which and to which the device copies fast.
  static Activations ForCopies(DeviceMemory& memory, int64_t rows, int64_t cols) {
    Activations made;
    made.numbers_ = {memory.AllocateHost(rows * cols * sizeof(float)),
                     [&memory](void* numbers) { memory.FreeHost(numbers); }};
    made.view_ = {made.numbers_.get(), rows, cols};
    return made;
  }

  operator Matrix() const { return view_; }  // NOLINT: a Matrix is its view
  const Matrix* operator->() const { return &view_; }
  Matrix view() const { return view_; }

  // Narrows the view to its last `count` rows.
  void KeepLastRows(int64_t count) { view_ = view_.Slice(view_.rows - count, count); }

  // Matrices of so many columns each, of the device's activation type. On a device with memory of
  // its own they are columns of one matrix, side by side.
  static std::vector<Activations> SideBySide(DeviceMemory& memory, int64_t rows,
                                             absl::Span<const int64_t> cols) {
    std::vector<Activations> all;
    if (memory.is_host()) {
      for (const int64_t n : cols) all.emplace_back(memory, memory.activation_type(), rows, n);
      return all;
    }
    const Activations whole(memory, memory.activation_type(), rows,
                            std::accumulate(cols.begin(), cols.end(), int64_t{0}));
    int64_t first = 0;
    for (const int64_t n : cols) {
      Activations& part = all.emplace_back(whole);
      part.view_ = whole.view_.Columns(first, n);
      first += n;
    }
    return all;
  }

 private:
  std::shared_ptr<void> numbers_;
  Matrix view_;
};

// Whole numbers that many ops read: positions, rows.
class Indices {
 public:
  Indices() = default;
  Indices(DeviceMemory& memory, std::vector<int32_t> numbers) : host_(std::move(numbers)) {
    if (memory.is_host() || host_.empty()) return;
    on_device_ = AllocateShared(memory, host_.size() * sizeof(int32_t));
    memory.Upload(host_.data(), host_.size() * sizeof(int32_t), on_device_.get());
  }

  // Other numbers: in the same place, if they are as many.
  void Set(DeviceMemory& memory, std::vector<int32_t> numbers) {
    if (numbers.size() != host_.size()) {
      *this = Indices(memory, std::move(numbers));
      return;
    }
    host_ = std::move(numbers);
    if (on_device_) memory.Upload(host_.data(), host_.size() * sizeof(int32_t), on_device_.get());
  }

  operator IndexView() const { return view(); }  // NOLINT: an IndexView is its view
  IndexView view() const { return IndexView(host_, static_cast<const int32_t*>(on_device_.get())); }
  const std::vector<int32_t>& host() const { return host_; }
  int64_t size() const { return static_cast<int64_t>(host_.size()); }

 private:
  std::vector<int32_t> host_;
  std::shared_ptr<void> on_device_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_ACTIVATIONS_H_
