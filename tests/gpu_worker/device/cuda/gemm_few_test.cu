// Products of a few rows against plain loops in double precision, over odd shapes, and the bits of
// a row whatever other rows there are.
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
#include "gpu_worker/device/cuda/gemm_few.cuh"
#include "gpu_worker/device/cuda/gemm_few.h"
#include "gpu_worker/device/cuda/rows.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/device/cuda/gemm_case.cuh"

namespace tessera::cuda {
namespace {

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

}  // namespace
}  // namespace tessera::cuda

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
