// Numbers on the device beside what they should be, and times: for the tests of rows and places.
#ifndef TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_ROWS_CASE_CUH_
#define TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_ROWS_CASE_CUH_

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/kernels.h"
#include "gtest/gtest.h"

namespace tessera::cuda {
namespace {

constexpr double kTerabytesPerSecond = 3.0;

// Half of the distance between neighbours of bf16, relative.
constexpr double kBf16Half = 1.0 / 256;

double ToDouble(float x) { return x; }
double ToDouble(__nv_bfloat16 x) { return __bfloat162float(x); }

// A device's array with a host's copy.
template <typename T>
class Array {
 public:
  explicit Array(std::vector<T> host) : host_(std::move(host)) {
    CUDA_OR_DIE("test", cudaMalloc(&device_, std::max<size_t>(host_.size(), 1) * sizeof(T)));
    Upload();
  }
  ~Array() { cudaFree(device_); }
  Array(const Array&) = delete;

  void Upload() {
    CUDA_OR_DIE("test", cudaMemcpy(device_, host_.data(), host_.size() * sizeof(T),
                                   cudaMemcpyHostToDevice));
  }
  // What the device holds now.
  std::vector<T> Now() const {
    std::vector<T> now(host_.size());
    CUDA_OR_DIE("test",
                cudaMemcpy(now.data(), device_, now.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return now;
  }
  T* device() const { return device_; }
  const std::vector<T>& host() const { return host_; }
  double at(size_t i) const { return ToDouble(host_[i]); }

 private:
  std::vector<T> host_;
  T* device_ = nullptr;
};

std::mt19937& Random() {
  static std::mt19937 random(7);
  return random;
}

template <typename T>
std::vector<T> RandomNumbers(int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<T> x(count);
  for (T& value : x) value = static_cast<T>(normal(Random()));
  return x;
}

template <typename T>
std::vector<T> Poison(int64_t count) {
  return std::vector<T>(count, static_cast<T>(std::numeric_limits<float>::quiet_NaN()));
}

// Rows with `gap` numbers between them.
template <typename T>
class Table {
 public:
  Table(int64_t rows, int64_t cols, int64_t gap, bool poison = false)
      : rows_(rows),
        cols_(cols),
        stride_(cols + gap),
        array_(poison ? Poison<T>(rows * stride_) : RandomNumbers<T>(rows * stride_)) {}
  Rows<T> view() const { return {array_.device(), rows_, cols_, stride_}; }
  double at(int64_t r, int64_t c) const { return array_.at(r * stride_ + c); }

  // Compares what the device holds with want(r, c), within bound * max(|want|, floor); gaps must
  // not have been written.
  void Expect(const std::function<double(int64_t, int64_t)>& want, double bound,
              double floor = 0) const {
    const std::vector<T> now = array_.Now();
    int bad = 0;
    for (int64_t r = 0; r < rows_ && bad < 3; ++r) {
      for (int64_t c = 0; c < stride_ && bad < 3; ++c) {
        const size_t i = r * stride_ + c;
        if (c >= cols_) {
          bad += std::memcmp(&now[i], &array_.host()[i], sizeof(T)) != 0;
          EXPECT_EQ(bad, 0) << "gap written at " << r << ", " << c;
          continue;
        }
        const double is = ToDouble(now[i]), should = want(r, c);
        if (std::abs(is - should) <= bound * std::max(std::abs(should), floor)) continue;
        ADD_FAILURE() << "at " << r << ", " << c << ": " << is << ", should be " << should;
        ++bad;
      }
    }
  }

 private:
  int64_t rows_, cols_, stride_;
  Array<T> array_;
};
using F32Table = Table<float>;
using Bf16Table = Table<__nv_bfloat16>;

struct Angles {
  Angles(int half_dim, int positions)
      : cos(Make(half_dim, positions, 0)), sin(Make(half_dim, positions, 1)), half(half_dim) {}
  static std::vector<float> Make(int half_dim, int positions, int which) {
    std::vector<float> x;
    for (int p = 0; p < positions; ++p) {
      for (int j = 0; j < half_dim; ++j) {
        const double angle = p / std::pow(10000.0, 1.0 * j / half_dim);
        x.push_back(static_cast<float>(which == 0 ? std::cos(angle) : std::sin(angle)));
      }
    }
    return x;
  }
  Rope view() const { return {cos.device(), sin.device(), half}; }

  // Number c of a row of heads, rotated to `position`; x(c): the row.
  double Rotated(const std::function<double(int64_t)>& x, int64_t c, int64_t position) const {
    const int64_t j = c % half, at = position * half + j;
    return c / half % 2 == 0 ? x(c) * cos.at(at) - x(c + half) * sin.at(at)
                             : x(c) * cos.at(at) + x(c - half) * sin.at(at);
  }

  Array<float> cos, sin;
  int half;
};

// KV memory of `slots` slots, in shuffled blocks, or one after the other.
struct Memory {
  Memory(int kv_heads, int head_dim, int slots, bool in_blocks)
      : heads(kv_heads),
        dim(head_dim),
        total((slots + 63) / 64 * 64 + (in_blocks ? 128 : 0)),
        k(int64_t{kv_heads} * total, head_dim, 0, true),
        v(int64_t{kv_heads} * total, head_dim, 0, true),
        blocks(Blocks(total / 64)),
        blocked(in_blocks) {}
  static std::vector<int32_t> Blocks(int count) {
    std::vector<int32_t> blocks(count);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), Random());
    return blocks;
  }
  KvView view() const {
    return {k.view().data, v.view().data, blocked ? blocks.device() : nullptr, total, heads, dim};
  }
  int64_t Row(int head, int64_t slot) const {
    const int64_t at = blocked ? blocks.host()[slot / 64] * 64 + slot % 64 : slot;
    return head * total + at;
  }

  int heads, dim;
  int64_t total;
  Bf16Table k, v;
  Array<int32_t> blocks;
  bool blocked;
};

// What KV memory should hold: NaN where nothing was written.
struct Wanted {
  explicit Wanted(const Memory& memory)
      : memory(memory), k(memory.heads * memory.total * memory.dim, std::nan("")), v(k) {}
  void Expect() const {
    Check(memory.k, k, 1.02 * kBf16Half);
    Check(memory.v, v, 0);
  }
  void Check(const Bf16Table& table, const std::vector<double>& want, double bound) const {
    std::vector<__nv_bfloat16> now(want.size());
    CUDA_OR_DIE("test",
                cudaMemcpy(now.data(), table.view().data, now.size() * 2, cudaMemcpyDeviceToHost));
    int bad = 0;
    for (size_t i = 0; i < want.size() && bad < 3; ++i) {
      const double is = ToDouble(now[i]);
      if (std::isnan(want[i])
              ? std::isnan(is)
              : std::abs(is - want[i]) <= bound * std::max(std::abs(want[i]), 1e-4)) {
        continue;
      }
      ADD_FAILURE() << "slot number " << i << ": " << is << ", should be " << want[i];
      ++bad;
    }
  }
  const Memory& memory;
  std::vector<double> k, v;
};

class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU here";
  }
};

// The median of some runs' microseconds; work(i) is different memory for each i.
float MedianUs(const std::function<void(int)>& work) {
  cudaEvent_t begin, end;
  CUDA_OR_DIE("time", cudaEventCreate(&begin));
  CUDA_OR_DIE("time", cudaEventCreate(&end));
  std::vector<float> us;
  for (int i = 0; i < 24; ++i) {
    // A long operation before: the work is enqueued before it begins.
    CUDA_OR_DIE("time", cudaEventRecord(begin));
    for (int j = 0; j < 8; ++j) work(i * 8 + j);
    CUDA_OR_DIE("time", cudaEventRecord(end));
    CUDA_OR_DIE("time", cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OR_DIE("time", cudaEventElapsedTime(&ms, begin, end));
    if (i >= 4) us.push_back(ms * 1000 / 8);
  }
  std::nth_element(us.begin(), us.begin() + us.size() / 2, us.end());
  return us[us.size() / 2];
}

void Report(const char* what, double bytes, float us) {
  const double floor = bytes / kTerabytesPerSecond / 1e6;
  std::printf("%-44s %8.2f us  floor %8.2f  %3.0f%%\n", what, us, floor, 100 * floor / us);
}

template <typename T>
T* Memory8(int64_t count) {
  T* data = nullptr;
  CUDA_OR_DIE("time", cudaMalloc(&data, count * sizeof(T)));
  std::vector<T> some = RandomNumbers<T>(1 << 16);
  for (int64_t at = 0; at < count; at += 1 << 16) {
    CUDA_OR_DIE("time", cudaMemcpy(data + at, some.data(),
                                   std::min<int64_t>(1 << 16, count - at) * sizeof(T),
                                   cudaMemcpyHostToDevice));
  }
  return data;
}

}  // namespace
}  // namespace tessera::cuda

#endif  // TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_ROWS_CASE_CUH_
