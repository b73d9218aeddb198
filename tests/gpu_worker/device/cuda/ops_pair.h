// The CPU's operations and a CUDA device's side by side, with the same numbers: all inputs are
// representable in bf16, so that both begin with exactly the same. For tests.
#ifndef TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_OPS_PAIR_H_
#define TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_OPS_PAIR_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "gpu_worker/device/cuda/ops_cuda.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/activations.h"
#include "gpu_worker/model/config.h"
#include "gpu_worker/model/kv_memory.h"
#include "gpu_worker/model/kv_pool.h"
#include "gtest/gtest.h"

namespace tessera {

using Floats = std::vector<float>;

// Relative Frobenius norms of the difference between the devices. A result of bf16 is rounded once
// (1.7e-3 on average over numbers of all sizes); attention's probabilities are rounded too.
constexpr double kSumsOfFloats = 1e-5;
constexpr double kRoundedOnce = 2.5e-3;
constexpr double kAttention = 4e-3;

// One Ops of each kind for all tests of the process; and what they differed by.
class Devices final : public ::testing::Environment {
 public:
  static Devices& Get() {
    // gtest owns it, and ends it before the CUDA runtime goes.
    static auto* const devices =
        static_cast<Devices*>(::testing::AddGlobalTestEnvironment(new Devices));
    return *devices;
  }

  void SetUp() override {
    cpu = MakeCpuOps(2);
    absl::StatusOr<std::unique_ptr<Ops>> made = MakeCudaOps(0);
    if (made.ok()) cuda = *std::move(made);
    if (!made.ok()) why_not = made.status().ToString();
  }
  void TearDown() override {
    for (const auto& [op, most] : differences) {
      std::printf("difference %-28s %.1e, bound %.1e\n", op.c_str(), most.first, most.second);
    }
    cuda.reset();
  }

  std::unique_ptr<Ops> cpu, cuda;  // cuda: null where there is no such device
  std::string why_not;
  std::map<std::string, std::pair<double, double>> differences;  // largest one, and its bound
};

inline Devices& kDevices = Devices::Get();  // before main

class OpsPairTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (Devices::Get().cuda == nullptr) GTEST_SKIP() << Devices::Get().why_not;
  }

  Ops& cpu() const { return *Devices::Get().cpu; }
  Ops& cuda() const { return *Devices::Get().cuda; }
  DeviceMemory& memory() const { return cuda().memory(); }
};

inline Floats Random(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats numbers(count);
  for (float& x : numbers) x = ToFloat(ToBf16(normal(random)));
  return numbers;
}

inline Floats Poison(int64_t count) {
  return Floats(count, std::numeric_limits<float>::quiet_NaN());
}

inline std::vector<Bf16> Narrow(const Floats& x) {
  std::vector<Bf16> narrow(x.size());
  std::transform(x.begin(), x.end(), narrow.begin(), ToBf16);
  return narrow;
}

inline Floats Widen(const std::vector<Bf16>& x) {
  Floats wide(x.size());
  std::transform(x.begin(), x.end(), wide.begin(), ToFloat);
  return wide;
}

// |got - want| <= bound |want| as a whole, and each number within ten times that of its own and the
// usual size. NaN is never close.
inline void ExpectClose(const char* op, const Floats& got, const Floats& want, double bound) {
  ASSERT_EQ(got.size(), want.size()) << op;
  double difference = 0, norm = 0, worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    difference += d * d;
    norm += static_cast<double>(want[i]) * want[i];
  }
  const double usual = std::sqrt(norm / std::max<size_t>(1, want.size()));
  size_t at = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i]) continue;
    const double d = std::abs(got[i] - want[i]) / (std::abs(want[i]) + usual);
    if (d <= worst) continue;
    worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
    at = i;
  }
  const double relative = difference == 0 ? 0 : std::sqrt(difference / norm);
  auto& most = Devices::Get().differences[op];
  most = {std::isnan(relative) ? HUGE_VAL : std::max(most.first, relative), bound};
  EXPECT_TRUE(relative <= bound) << op << " differs by " << relative;
  EXPECT_TRUE(worst <= 10 * bound)
      << op << " at " << at << " of " << got.size() << ": " << got[at] << " for " << want[at];
}

// The same bits.
inline void ExpectSame(const char* op, const Floats& got, const Floats& want) {
  ASSERT_EQ(got.size(), want.size()) << op;
  int64_t different = 0;
  size_t first = 0;
  for (size_t i = got.size(); i-- > 0;) {
    if (std::bit_cast<uint32_t>(got[i]) == std::bit_cast<uint32_t>(want[i])) continue;
    ++different;
    first = i;
  }
  if (different == 0) return;
  ADD_FAILURE() << op << ": " << different << " of " << got.size() << " numbers, the first at "
                << first << ": " << got[first] << " for " << want[first];
}

// Numbers in a device's memory, as the program sees them.
inline Floats ReadNumbers(DeviceMemory& memory, DType dtype, const void* from, int64_t count) {
  if (dtype == DType::kF32) {
    Floats numbers(count);
    memory.Download(from, count * sizeof(float), numbers.data());
    return numbers;
  }
  std::vector<Bf16> narrow(count);
  memory.Download(from, count * sizeof(Bf16), narrow.data());
  return Widen(narrow);
}

inline void WriteNumbers(DeviceMemory& memory, DType dtype, const Floats& numbers, void* to) {
  if (dtype == DType::kF32) {
    memory.Upload(numbers.data(), numbers.size() * sizeof(float), to);
    return;
  }
  const std::vector<Bf16> narrow = Narrow(numbers);
  memory.Upload(narrow.data(), narrow.size() * sizeof(Bf16), to);
}

// A matrix on both devices: f32 on the CPU; on the CUDA device of `dtype` and, if of bf16, columns
// of a wider one, whose other columns must stay as they are.
class Both {
 public:
  Both(DeviceMemory& memory, int64_t rows, int64_t cols, const Floats& values,
       DType dtype = DType::kBf16)
      : memory_(memory),
        border_(dtype == DType::kBf16 ? kBorder : 0),
        cpu_(rows, cols),
        wide_(memory, dtype, rows, cols + 2 * border_) {
    std::copy(values.begin(), values.end(), cpu_->data());
    Floats wide(rows * wide_->cols, kBorderNumber);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(values.begin() + r * cols, cols, wide.begin() + r * wide_->cols + border_);
    }
    WriteNumbers(memory, dtype, wide, wide_->memory);
  }
  // For results: filled with NaN.
  static Both Poisoned(DeviceMemory& memory, int64_t rows, int64_t cols,
                       DType dtype = DType::kBf16) {
    return Both(memory, rows, cols, Poison(rows * cols), dtype);
  }

  Matrix cpu() const { return cpu_; }
  Matrix cuda() const { return wide_->Columns(border_, cpu_->cols); }

  Floats CpuValues() const { return {cpu_->data(), cpu_->data() + cpu_->rows * cpu_->cols}; }
  Floats CudaValues() const {
    const Floats wide =
        ReadNumbers(memory_, wide_->dtype, wide_->memory, wide_->rows * wide_->cols);
    Floats values;
    int64_t overwritten = 0;
    for (size_t i = 0; i < wide.size(); ++i) {
      const int64_t col = static_cast<int64_t>(i) % wide_->cols - border_;
      if (col >= 0 && col < cpu_->cols) {
        values.push_back(wide[i]);
      } else if (wide[i] != kBorderNumber) {
        ++overwritten;
      }
    }
    EXPECT_EQ(overwritten, 0) << "numbers beside the matrix";
    return values;
  }

 private:
  static constexpr int64_t kBorder = 24;
  static constexpr float kBorderNumber = 42;

  DeviceMemory& memory_;
  int64_t border_;
  Activations cpu_, wide_;
};

// Floats or a weight's bf16 numbers on both devices.
class Shared {
 public:
  Shared(DeviceMemory& memory, Floats values, DType dtype)
      : values_(std::move(values)),
        narrow_(Narrow(values_)),
        cuda_(AllocateShared(memory, values_.size() * BytesPer(dtype))) {
    WriteNumbers(memory, dtype, values_, cuda_.get());
  }
  // Rows first .. first + rows of a weight.
  Weight CpuWeight(int64_t first, int64_t rows, int64_t cols) const {
    return {narrow_.data() + first * cols, DType::kBf16, rows, cols};
  }
  Weight CudaWeight(int64_t first, int64_t rows, int64_t cols) const {
    return {static_cast<const Bf16*>(cuda_.get()) + first * cols, DType::kBf16, rows, cols};
  }
  absl::Span<const float> CpuFloats(int64_t first, int64_t count) const {
    return absl::MakeConstSpan(values_).subspan(first, count);
  }
  absl::Span<const float> CudaFloats(int64_t first, int64_t count) const {
    return {static_cast<const float*>(cuda_.get()) + first, static_cast<size_t>(count)};
  }

 private:
  const Floats values_;
  const std::vector<Bf16> narrow_;
  const std::shared_ptr<void> cuda_;
};

// A cached slice [token][width] on both devices.
class SlicePair {
 public:
  SlicePair(DeviceMemory& memory, int64_t tokens, int64_t width, uint32_t seed)
      : tokens_(tokens),
        k_(Narrow(Random(tokens * width, seed))),
        v_(Narrow(Random(tokens * width, seed + 1000))),
        cuda_(AllocateShared(memory, std::max<size_t>(1, 4 * k_.size()))) {
    memory.Upload(k_.data(), 2 * k_.size(), cuda_.get());
    memory.Upload(v_.data(), 2 * v_.size(), static_cast<Bf16*>(cuda_.get()) + k_.size());
  }
  SliceView cpu() const { return {k_.data(), v_.data(), tokens_}; }
  SliceView cuda() const {
    const auto* k = static_cast<const Bf16*>(cuda_.get());
    return {k, k + k_.size(), tokens_};
  }

 private:
  int64_t tokens_;
  std::vector<Bf16> k_, v_;
  std::shared_ptr<void> cuda_;
};

inline RopeTable RopeFor(int64_t head_dim, int64_t positions) {
  RopeTable table;
  table.half_dim = head_dim / 2;
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t j = 0; j < table.half_dim; ++j) {
      const double angle = p / std::pow(10000.0, 2.0 * j / head_dim);
      table.cos.push_back(static_cast<float>(std::cos(angle)));
      table.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return table;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_OPS_PAIR_H_
