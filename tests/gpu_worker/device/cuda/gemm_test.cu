// Products against plain loops in double precision, over odd shapes, and the bits of a row whatever
// other rows there are; with --time, the products of a 7B model and a decode step made of them.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/gemm.h"
#include "gpu_worker/device/cuda/gemm_few.cuh"
#include "gpu_worker/device/cuda/gemm_few.h"
#include "gpu_worker/device/cuda/kernels.h"
#include "gpu_worker/device/cuda/rows.h"
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
        bad += std::memcmp(&now[i], &out.host()[i], sizeof(T)) != 0;
        EXPECT_EQ(bad, 0) << "gap written at " << r << ", " << c;
        continue;
      }
      const Sum sum = Product(x, r, w, c);
      const double want =
          sum.value + (bias != nullptr ? bias->at(0, c) : 0) + (accumulate ? out.at(r, c) : 0);
      const double magnitude = sum.magnitude + (bias != nullptr ? std::abs(bias->at(0, c)) : 0) +
                               (accumulate ? std::abs(out.at(r, c)) : 0);
      // cuBLASLt's bias of a bf16 output is rounded to bf16 too.
      const double rounding =
          sizeof(T) == 2
              ? kBf16Half * (std::abs(want) + (bias != nullptr ? std::abs(bias->at(0, c)) : 0))
              : 0;
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

void CheckFew(int64_t m, Dims dims, bool with_bias, bool accumulate) {
  Bf16Table x(m, dims.k, 8, 1), w(dims.n, dims.k, 0, 2);
  F32Table bias(1, dims.n, 0, 3), out(m, dims.n, 5, 4);
  Space space(dims.n, dims.k);
  if (!accumulate) out.Poison();
  GemmFew(x.view(), w.view().data, dims.n, with_bias ? bias.view().data : nullptr, accumulate,
          out.view(), space.data(), nullptr);
  ExpectProduct(x, w, with_bias ? &bias : nullptr, accumulate, out);
  if (accumulate) return;
  Bf16Table narrow(m, dims.n, 3, 5);
  narrow.Poison();
  GemmFew(x.view(), w.view().data, dims.n, with_bias ? bias.view().data : nullptr, false,
          narrow.view(), space.data(), nullptr);
  ExpectProduct(x, w, with_bias ? &bias : nullptr, false, narrow);
}

TEST_F(GemmFewTest, OfOddShapes) {
  for (const Dims dims : {Dims{1, 8}, {13, 136}, {16, 64}, {40, 72}, {100, 576}, {130, 1544}}) {
    for (int64_t m : {0, 1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64}) {
      CheckFew(m, dims, m % 2 == 1, false);
      CheckFew(m, dims, m % 2 == 0, true);
    }
  }
}

TEST_F(GemmFewTest, OfModels) {
  for (const Dims dims : {Dims{960, 576}, {576, 1536}, {6144, 4096}, {64, 14336}}) {
    for (int64_t m : {1, 5, 20, 50}) {
      if (m * dims.n * dims.k > 60'000'000 && m > 1) continue;
      CheckFew(m, dims, true, false);
      CheckFew(m, dims, false, true);
    }
  }
}

TEST_F(GemmFewTest, OfRowsInAnyCompanyHasTheSameBits) {
  for (const Dims dims : {Dims{1536, 576}, {4096, 4096}, {2000, 14336}, {40, 72}}) {
    Bf16Table x(64, dims.k, 0, 1), w(dims.n, dims.k, 0, 2);
    F32Table bias(1, dims.n, 0, 3), all(64, dims.n, 0, 4), some(64, dims.n, 0, 4);
    Space space(dims.n, dims.k);
    GemmFew(x.view(), w.view().data, dims.n, bias.view().data, true, all.view(), space.data(),
            nullptr);
    const std::vector<float> want = all.Now();
    for (int64_t m : {1, 2, 3, 8, 9, 15, 16, 17, 24, 32, 33, 48, 63}) {
      for (int64_t first : {int64_t{0}, 64 - m}) {
        some.Upload();
        GemmFew(x.view(first, m), w.view().data, dims.n, bias.view().data, true,
                some.view(first, m), space.data(), nullptr);
        const std::vector<float> now = some.Now();
        EXPECT_EQ(std::memcmp(&now[first * dims.n], &want[first * dims.n], m * dims.n * 4), 0)
            << "m " << m << " n " << dims.n << " k " << dims.k;
      }
    }
  }
}

// The kernel's shapes for devices with little shared memory.
TEST_F(GemmFewTest, OfAnyShapeOfKernelHasTheSameBits) {
  for (const Dims dims : {Dims{200, 576}, {1040, 4096}}) {
    Bf16Table x(64, dims.k, 0, 1), w(dims.n, dims.k, 0, 2);
    Space space(dims.n, dims.k);
    for (int64_t m : {3, 8, 20, 64}) {
      F32Table want(m, dims.n, 0, 3), is(m, dims.n, 0, 4);
      GemmFew(x.view(0, m), w.view().data, dims.n, nullptr, false, want.view(), space.data(),
              nullptr);
      few::Product p;
      p.x = x.view().data;
      p.w = w.view().data;
      p.out = is.view().data;
      p.x_stride = dims.k;
      p.out_stride = dims.n;
      p.m = static_cast<int>(m);
      p.n = static_cast<int>(dims.n);
      p.k = static_cast<int>(dims.k);
      auto check = [&] {
        EXPECT_EQ(std::memcmp(is.Now().data(), want.Now().data(), m * dims.n * 4), 0) << "m " << m;
        is.Upload();
      };
      if (m <= 8) {
        few::Launch<few::Shape<1, 1, 2, 3, 1, 1, few::Output::kF32>>(p, nullptr);
        check();
      }
      if (m <= 32) {
        few::Launch<few::Shape<2, 4, 1, 2, 2, 1, few::Output::kF32>>(p, nullptr);
        check();
      }
      few::Launch<few::Shape<2, 8, 1, 1, 2, 1, few::Output::kF32>>(p, nullptr);
      check();
    }
  }
}

TEST_F(GemmFewTest, GatesStackedWeights) {
  for (const Dims dims : {Dims{16, 72}, {1536, 576}, {208, 4096}}) {
    Bf16Table x(64, dims.k, 8, 1), w(2 * dims.n, dims.k, 0, 2, 0.05f);
    Space space(2 * dims.n, dims.k);
    std::vector<__nv_bfloat16> before;
    for (int64_t m : {64, 1, 8, 13, 30, 33}) {
      Bf16Table out(m, dims.n, 8, 3);
      out.Poison();
      GemmFewSwiGlu(x.view(0, m), w.view().data, out.view(), space.data(), nullptr);
      const std::vector<__nv_bfloat16> now = out.Now();
      if (m == 64) before = now;
      EXPECT_EQ(std::memcmp(now.data(), before.data(), now.size() * 2), 0) << "m " << m;
      int bad = 0;
      for (int64_t r = 0; r < m && m < 60 && bad < 3; ++r) {
        for (int64_t c = 0; c < dims.n && bad < 3; ++c) {
          const Sum gate = Product(x, r, w, c), up = Product(x, r, w, dims.n + c);
          const double want = gate.value / (1 + std::exp(-gate.value)) * up.value;
          const double error = kSumError * (2 * gate.magnitude * std::abs(up.value) +
                                            std::abs(gate.value) * up.magnitude);
          const double is = ToDouble(now[r * out.stride() + c]);
          if (std::abs(is - want) <= 1.02 * kBf16Half * std::abs(want) + error) continue;
          ADD_FAILURE() << r << ", " << c << ": " << is << ", should be " << want;
          ++bad;
        }
      }
    }
  }
}

// A chain whose every product reads what the last one wrote, as a graph.
TEST_F(GemmFewTest, ChainsInGraphs) {
  constexpr int64_t kSize = 2048;
  constexpr int kLength = 40;
  Bf16Table w(kSize, kSize, 0, 1, 1 / std::sqrt(2048.0f)), a(3, kSize, 0, 2), b(3, kSize, 0, 3);
  Space space(kSize, kSize);
  auto step = [&](int i, cudaStream_t stream) {
    GemmFew((i % 2 == 0 ? a : b).view(), w.view().data, kSize, nullptr, false,
            (i % 2 == 0 ? b : a).view(), space.data(), stream);
  };
  for (int i = 0; i < kLength; ++i) {
    step(i, nullptr);
    CUDA_OR_DIE("test", cudaDeviceSynchronize());
  }
  const std::vector<__nv_bfloat16> want = a.Now();
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  CUDA_OR_DIE("test", cudaStreamCreate(&stream));
  CUDA_OR_DIE("test", cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < kLength; ++i) step(i, stream);
  CUDA_OR_DIE("test", cudaStreamEndCapture(stream, &graph));
  CUDA_OR_DIE("test", cudaGraphInstantiate(&ready, graph, 0));
  for (int run = 0; run < 20; ++run) {
    a.Upload();
    CUDA_OR_DIE("test", cudaDeviceSynchronize());
    CUDA_OR_DIE("test", cudaGraphLaunch(ready, stream));
    CUDA_OR_DIE("test", cudaStreamSynchronize(stream));
    const std::vector<__nv_bfloat16> now = a.Now();
    EXPECT_EQ(std::memcmp(now.data(), want.data(), now.size() * 2), 0);
  }
  cudaGraphExecDestroy(ready);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST_F(GemmTest, OfOddShapes) {
  Gemm gemm;
  for (const Dims dims : {Dims{8, 8}, {13, 72}, {264, 576}, {576, 1536}}) {
    for (int64_t m : {0, 1, 17, 65, 130}) {
      Bf16Table x(m, dims.k, 8, 1), w(dims.n, dims.k, 0, 2);
      F32Table bias(1, dims.n, 0, 3);
      for (bool with_bias : {false, true}) {
        const float* added = with_bias ? bias.view().data : nullptr;
        const F32Table* expected = with_bias ? &bias : nullptr;
        F32Table out(m, dims.n, dims.n % 8, 4), sum(m, dims.n, 4, 5);
        Bf16Table narrow(m, dims.n, 8, 6);
        out.Poison();
        narrow.Poison();
        gemm.Run(x.view(), w.view().data, dims.n, added, false, out.view(), nullptr);
        gemm.Run(x.view(), w.view().data, dims.n, added, true, sum.view(), nullptr);
        gemm.Run(x.view(), w.view().data, dims.n, added, false, narrow.view(), nullptr);
        ExpectProduct(x, w, expected, false, out);
        ExpectProduct(x, w, expected, true, sum);
        ExpectProduct(x, w, expected, false, narrow);
      }
    }
  }
}

// x and out are columns of wider matrices, from the 8th on (16 or 32 bytes).
TEST_F(GemmTest, OfColumnsOfWiderMatrices) {
  constexpr int64_t kM = 65, kN = 264, kK = 576;
  Gemm gemm;
  Bf16Table x(kM, kK, 0, 1), wide(kM, kK + 16, 0, 2), w(kN, kK, 0, 3);
  const Bf16Rows inner{wide.view().data + 8, kM, kK, kK + 16};
  CopyRows(x.view(), inner, nullptr);
  for (bool few : {false, true}) {
    const int64_t m = few ? 64 : kM;
    const Bf16Rows from{inner.data, m, kK, inner.stride};
    F32Table out(m, kN, 0, 4), wide_out(m, kN + 16, 0, 5);
    Bf16Table narrow(m, kN, 0, 6), wide_narrow(m, kN + 16, 0, 7);
    const F32Rows to{wide_out.view().data + 8, m, kN, kN + 16};
    const Bf16Rows to_narrow{wide_narrow.view().data + 8, m, kN, kN + 16};
    if (few) {
      GemmFew(from, w.view().data, kN, nullptr, false, to, nullptr, nullptr);
      GemmFew(from, w.view().data, kN, nullptr, false, to_narrow, nullptr, nullptr);
    } else {
      gemm.Run(from, w.view().data, kN, nullptr, false, to, nullptr);
      gemm.Run(from, w.view().data, kN, nullptr, false, to_narrow, nullptr);
    }
    CUDA_OR_DIE("test", cudaMemcpy2D(out.view().data, kN * 4, to.data, to.stride * 4, kN * 4, m,
                                     cudaMemcpyDeviceToDevice));
    CopyRows(to_narrow, narrow.view(), nullptr);
    ExpectProduct(x, w, nullptr, false, out);
    ExpectProduct(x, w, nullptr, false, narrow);
  }
}

TEST_F(GemmTest, RunsUnmeasuredInCapture) {
  Gemm gemm;
  Bf16Table x(20, 128, 0, 1), w(64, 128, 0, 2), out(20, 64, 0, 3);
  out.Poison();
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  CUDA_OR_DIE("test", cudaStreamCreate(&stream));
  CUDA_OR_DIE("test", cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  gemm.Run(x.view(), w.view().data, 64, nullptr, false, out.view(), stream);
  CUDA_OR_DIE("test", cudaStreamEndCapture(stream, &graph));
  CUDA_OR_DIE("test", cudaGraphInstantiate(&ready, graph, 0));
  CUDA_OR_DIE("test", cudaGraphLaunch(ready, stream));
  CUDA_OR_DIE("test", cudaStreamSynchronize(stream));
  ExpectProduct(x, w, nullptr, false, out);
  EXPECT_GT(gemm.Warm({20, 64, 128}).candidates, 0);
  cudaGraphExecDestroy(ready);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST_F(GemmTest, KeepsChoicesInAFile) {
  const std::string path = testing::TempDir() + "gemm_choices.txt";
  Gemm first;
  const Gemm::Key key{100, 256, 512, true, true, false};
  const Gemm::Choice choice = first.Warm(key);
  ASSERT_GT(choice.candidates, 0);
  ASSERT_TRUE(first.Save(path));
  Gemm second;
  ASSERT_TRUE(second.Load(path));
  EXPECT_EQ(second.Warm(key).rank, choice.rank);
  EXPECT_NEAR(second.Warm(key).us, choice.us, 1e-3 * choice.us);
  Bf16Table x(100, 512, 0, 1), w(256, 512, 0, 2);
  F32Table out(100, 256, 0, 3);
  second.Run(x.view(), w.view().data, 256, nullptr, true, out.view(), nullptr);
  ExpectProduct(x, w, nullptr, true, out);
  EXPECT_FALSE(second.Load(path + ".none"));
  std::ofstream(path + ".other") << "tessera-gemm 1 cublasLt 1 Some Device\nend\n";
  EXPECT_FALSE(second.Load(path + ".other"));
  std::string header;
  std::getline(std::ifstream(path) >> std::ws, header);
  std::ofstream(path + ".broken") << header << "\n128 256\nend\n";
  EXPECT_FALSE(second.Load(path + ".broken"));
  std::ofstream(path + ".cut") << header << "\n";
  EXPECT_FALSE(second.Load(path + ".cut"));
}

constexpr Dims kMistral[] = {
    {6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {32000, 4096}};

// Random numbers on the device, the same over and over.
__nv_bfloat16* Numbers(int64_t count, float scale) {
  __nv_bfloat16* data = nullptr;
  CUDA_OR_DIE("time", cudaMalloc(&data, count * 2));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<__nv_bfloat16> some(std::min<int64_t>(count, 1 << 20));
  for (__nv_bfloat16& x : some) x = __float2bfloat16(normal(random) * scale);
  int64_t done = static_cast<int64_t>(some.size());
  CUDA_OR_DIE("time", cudaMemcpy(data, some.data(), done * 2, cudaMemcpyHostToDevice));
  for (; done < count; done *= 2) {
    CUDA_OR_DIE("time", cudaMemcpy(data + done, data, std::min(done, count - done) * 2,
                                   cudaMemcpyDeviceToDevice));
  }
  return data;
}

// The median of 12 replays of a graph of `count` works, in microseconds per work.
float MedianUs(int count, const std::function<void(int, cudaStream_t)>& work) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  cudaEvent_t begin, end;
  CUDA_OR_DIE("time", cudaStreamCreate(&stream));
  CUDA_OR_DIE("time", cudaEventCreate(&begin));
  CUDA_OR_DIE("time", cudaEventCreate(&end));
  CUDA_OR_DIE("time", cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < count; ++i) work(i, stream);
  CUDA_OR_DIE("time", cudaStreamEndCapture(stream, &graph));
  CUDA_OR_DIE("time", cudaGraphInstantiate(&ready, graph, 0));
  std::vector<float> us;
  for (int i = 0; i < 15; ++i) {
    CUDA_OR_DIE("time", cudaEventRecord(begin, stream));
    CUDA_OR_DIE("time", cudaGraphLaunch(ready, stream));
    CUDA_OR_DIE("time", cudaEventRecord(end, stream));
    CUDA_OR_DIE("time", cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OR_DIE("time", cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) us.push_back(ms * 1000 / count);
  }
  cudaGraphExecDestroy(ready);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::nth_element(us.begin(), us.begin() + us.size() / 2, us.end());
  return us[us.size() / 2];
}

void TimeFew(const __nv_bfloat16* weights, int64_t numbers) {
  std::printf("GemmFew, floats added to, weights from memory: us (%% of %.1f TB/s)\n",
              kTerabytesPerSecond);
  __nv_bfloat16* x = Numbers(64 * 14336, 1);
  float* out = nullptr;
  CUDA_OR_DIE("time", cudaMalloc(&out, 64 * 32000 * 4));
  CUDA_OR_DIE("time", cudaMemset(out, 0, 64 * 32000 * 4));
  for (const Dims dims : kMistral) {
    std::printf("%6d x %5d:", static_cast<int>(dims.n), static_cast<int>(dims.k));
    const int64_t copies = std::min<int64_t>(24, numbers / (dims.n * dims.k));
    for (int64_t m : {1, 8, 16, 32, 64}) {
      const float us = MedianUs(24, [&](int i, cudaStream_t stream) {
        GemmFew({x, m, dims.k, dims.k}, weights + i % copies * dims.n * dims.k, dims.n, nullptr,
                true, F32Rows{out, m, dims.n, dims.n}, nullptr, stream);
      });
      const double floor = 2.0 * dims.n * dims.k / kTerabytesPerSecond / 1e6;
      std::printf("  m=%d %.1f (%.0f%%)", static_cast<int>(m), us, 100 * floor / us);
    }
    std::printf("\n");
  }
  cudaFree(x);
  cudaFree(out);
}

// Mistral-7B's products and norms of one step, without attention.
void TimeDecodeStep(const __nv_bfloat16* weights) {
  constexpr int64_t kHidden = 4096, kInter = 14336, kQkv = 6144, kVocabulary = 32000;
  constexpr int64_t kLayer = kQkv * kHidden + kHidden * kHidden + 3 * kInter * kHidden;
  constexpr int kLayers = 32;
  float* h = nullptr;
  CUDA_OR_DIE("time", cudaMalloc(&h, 64 * kVocabulary * 4));
  __nv_bfloat16* x = Numbers(64 * kInter * 4, 1);
  std::vector<float> ones(kHidden, 1);
  float* gain = nullptr;
  CUDA_OR_DIE("time", cudaMalloc(&gain, kHidden * 4));
  CUDA_OR_DIE("time", cudaMemcpy(gain, ones.data(), kHidden * 4, cudaMemcpyHostToDevice));
  for (int64_t m : {1, 8, 32}) {
    CUDA_OR_DIE("time", cudaMemset(h, 0x3c, 64 * kVocabulary * 4));
    const F32Rows residual{h, m, kHidden, kHidden};
    const Bf16Rows normed{x, m, kHidden, kHidden}, qkv{x + 64 * kInter, m, kQkv, kQkv},
        mixed{x + 64 * kInter, m, kHidden, kQkv}, gated{x + 128 * kInter, m, kInter, kInter};
    const float us = MedianUs(1, [&](int, cudaStream_t s) {
      const __nv_bfloat16* w = weights;
      for (int layer = 0; layer < kLayers; ++layer) {
        RmsNorm(residual, gain, 1e-5f, normed, s);
        GemmFew(normed, w, kQkv, nullptr, false, qkv, nullptr, s);
        w += kQkv * kHidden;
        GemmFew(mixed, w, kHidden, nullptr, true, residual, nullptr, s);
        w += kHidden * kHidden;
        RmsNorm(residual, gain, 1e-5f, normed, s);
        GemmFewSwiGlu(normed, w, gated, nullptr, s);
        w += 2 * kInter * kHidden;
        GemmFew(gated, w, kHidden, nullptr, true, residual, nullptr, s);
        w += kInter * kHidden;
      }
      RmsNorm(residual, gain, 1e-5f, normed, s);
      GemmFew(normed, w, kVocabulary, nullptr, false, F32Rows{h, m, kVocabulary, kVocabulary},
              nullptr, s);
    });
    const double bytes = 2.0 * (kLayers * kLayer + kVocabulary * kHidden);
    std::printf("decode step without attention, m=%d: %.3f ms, floor %.3f ms\n",
                static_cast<int>(m), us / 1000, bytes / kTerabytesPerSecond / 1e9);
  }
  cudaFree(h);
  cudaFree(x);
  cudaFree(gain);
}

// Microseconds of a product to bf16, in a graph of 8. An unmeasured bucket is served by the
// library's first algorithm there.
float GemmUs(Gemm& gemm, const __nv_bfloat16* x, int64_t m, const __nv_bfloat16* weights, Dims dims,
             __nv_bfloat16* out) {
  const Bf16Rows from{const_cast<__nv_bfloat16*>(x), m, dims.k, dims.k};
  return MedianUs(8, [&](int i, cudaStream_t stream) {
    gemm.Run(from, weights + i * dims.n * dims.k, dims.n, nullptr, false,
             Bf16Rows{out, m, dims.n, dims.n}, stream);
  });
}

void TimeGemm(const __nv_bfloat16* weights) {
  std::printf("Gemm to bf16: m us (TFLOP/s) rank/candidates, us of the library's first\n");
  Gemm measured, unmeasured;
  __nv_bfloat16* x = Numbers(8192 * 14336, 1);
  __nv_bfloat16* out = nullptr;
  CUDA_OR_DIE("time", cudaMalloc(&out, int64_t{8192} * 32000 * 2));
  for (const Dims dims : kMistral) {
    std::printf("%6d x %5d:", static_cast<int>(dims.n), static_cast<int>(dims.k));
    for (int64_t m : {8192, 2048, 1261, 512, 256, 64, 32}) {
      const float first = GemmUs(unmeasured, x, m, weights, dims, out);
      const Gemm::Choice choice = measured.Warm({m, dims.n, dims.k});
      const float us = GemmUs(measured, x, m, weights, dims, out);
      std::printf(" | %d %.0f (%.0f) %d/%d %.0f", static_cast<int>(m), us,
                  2.0 * m * dims.n * dims.k / us / 1e6, choice.rank, choice.candidates, first);
    }
    std::printf("\n");
  }
  cudaFree(x);
  cudaFree(out);
}

void Time() {
  constexpr int64_t kNumbers = int64_t{7} * 1024 * 1024 * 1024 + 512 * 1024 * 1024;
  const __nv_bfloat16* weights = Numbers(kNumbers, 1.0f / 64);
  TimeFew(weights, kNumbers);
  TimeDecodeStep(weights);
  TimeGemm(weights);
}

}  // namespace
}  // namespace tessera::cuda

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--time") == 0) {
      tessera::cuda::Time();
      return 0;
    }
  }
  return RUN_ALL_TESTS();
}
