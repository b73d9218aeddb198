// Matrices on the device and what their products should be, in double precision.
#ifndef TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_GEMM_CASE_CUH_
#define TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_GEMM_CASE_CUH_

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/gemm_few.h"
#include "gpu_worker/device/cuda/kernels.h"
#include "gtest/gtest.h"

namespace tessera::cuda {
namespace {

constexpr double kTerabytesPerSecond = 3.0;
constexpr double kBf16Half = 1.0 / 256;  // rounding to bf16, relative
// Of sums in floats on the tensor cores, relative to the sum of the products' magnitudes.
constexpr double kSumError = 4e-6;

double ToDouble(float x) { return x; }
double ToDouble(__nv_bfloat16 x) { return __bfloat162float(x); }

// [rows][cols] on the device with `gap` numbers between rows, and a host's copy.
template <typename T>
class Table {
 public:
  Table(int64_t rows, int64_t cols, int64_t gap, uint32_t seed, float scale = 1)
      : rows_(rows), cols_(cols), stride_(cols + gap), host_(rows * stride_) {
    // Uniform with a variance of scale^2; quick, for millions of numbers.
    std::minstd_rand random(seed);
    for (T& x : host_) {
      x = static_cast<T>((static_cast<float>(random() % 65536) / 65536 - 0.5f) * 3.4641f * scale);
    }
    CUDA_OR_DIE("test", cudaMalloc(&device_, std::max<size_t>(host_.size(), 1) * sizeof(T)));
    Upload();
  }
  ~Table() { cudaFree(device_); }
  Table(const Table&) = delete;

  void Poison() {
    std::fill(host_.begin(), host_.end(), static_cast<T>(std::numeric_limits<float>::quiet_NaN()));
    Upload();
  }
  void Upload() {
    CUDA_OR_DIE("test", cudaMemcpy(device_, host_.data(), host_.size() * sizeof(T),
                                   cudaMemcpyHostToDevice));
  }
  std::vector<T> Now() const {
    std::vector<T> now(host_.size());
    CUDA_OR_DIE("test",
                cudaMemcpy(now.data(), device_, now.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return now;
  }
  Rows<T> view() const { return {device_, rows_, cols_, stride_}; }
  Rows<T> view(int64_t first, int64_t count) const {
    return {device_ + first * stride_, count, cols_, stride_};
  }
  double at(int64_t r, int64_t c) const { return ToDouble(host_[r * stride_ + c]); }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t stride() const { return stride_; }
  const std::vector<T>& host() const { return host_; }

 private:
  int64_t rows_, cols_, stride_;
  std::vector<T> host_;
  T* device_ = nullptr;
};
using F32Table = Table<float>;
using Bf16Table = Table<__nv_bfloat16>;

struct Sum {
  double value = 0, magnitude = 0;
};

Sum Product(const Bf16Table& x, int64_t r, const Bf16Table& w, int64_t n) {
  Sum sum;
  for (int64_t i = 0; i < x.cols(); ++i) {
    const double product = x.at(r, i) * w.at(n, i);
    sum.value += product;
    sum.magnitude += std::abs(product);
  }
  return sum;
}

// Compares out with x w^T + bias + held; held: what out's host copy says, when `accumulate`.
template <typename T>
void ExpectProduct(const Bf16Table& x, const Bf16Table& w, const F32Table* bias, bool accumulate,
                   const Table<T>& out) {
  const std::vector<T> now = out.Now();
  int bad = 0;
  for (int64_t r = 0; r < out.rows() && bad < 3; ++r) {
    for (int64_t c = 0; c < out.stride() && bad < 3; ++c) {
      const size_t i = r * out.stride() + c;
      if (c >= out.cols()) {
        const bool written = std::memcmp(&now[i], &out.host()[i], sizeof(T)) != 0;
        EXPECT_FALSE(written) << "gap written at " << r << ", " << c;
        bad += written;
        continue;
      }
      const Sum sum = Product(x, r, w, c);
      const double want =
          sum.value + (bias != nullptr ? bias->at(0, c) : 0) + (accumulate ? out.at(r, c) : 0);
      const double magnitude = sum.magnitude + (bias != nullptr ? std::abs(bias->at(0, c)) : 0) +
                               (accumulate ? std::abs(out.at(r, c)) : 0);
      // cuBLASLt's bias of a bf16 output is rounded to bf16 too, and with some algorithms what it
      // is added to.
      const double of_bias = bias != nullptr ? std::abs(bias->at(0, c)) + std::abs(sum.value) : 0;
      const double rounding = sizeof(T) == 2 ? kBf16Half * (std::abs(want) + of_bias) : 0;
      const double is = ToDouble(now[i]);
      if (std::abs(is - want) <= kSumError * magnitude + 1.02 * rounding) continue;
      ADD_FAILURE() << "m " << x.rows() << " n " << w.rows() << " k " << x.cols() << " at " << r
                    << ", " << c << ": " << is << ", should be " << want;
      ++bad;
    }
  }
}

class GemmTest : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU here";
  }
};
using GemmFewTest = GemmTest;

struct Dims {
  int64_t n, k;
};

class Space {
 public:
  Space(int64_t n, int64_t k) {
    CUDA_OR_DIE("test", cudaMalloc(&data_, std::max<size_t>(GemmFewWorkspace(n, k), 1)));
    CUDA_OR_DIE("test", cudaMemset(data_, 0, GemmFewWorkspace(n, k)));
  }
  ~Space() { cudaFree(data_); }
  Space(const Space&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

}  // namespace
}  // namespace tessera::cuda

#endif  // TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_GEMM_CASE_CUH_
