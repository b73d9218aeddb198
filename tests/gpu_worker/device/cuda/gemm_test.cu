// Products by cuBLASLt against plain loops in double precision, over odd shapes; with --time, the
// products of a 7B model, of few rows too, and a decode step made of them.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/gemm.h"
#include "gpu_worker/device/cuda/gemm_few.cuh"
#include "gpu_worker/device/cuda/gemm_few.h"
#include "gpu_worker/device/cuda/rows.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/device/cuda/gemm_case.cuh"

namespace tessera::cuda {
namespace {

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

TEST_F(GemmTest, RunsInCapture) {
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
  EXPECT_EQ(gemm.measurements(), 0);
  cudaGraphExecDestroy(ready);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
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

// Microseconds of a product to bf16, in a graph of 8.
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
      const GemmProduct product{dims.n, dims.k};
      const GemmChoice choice = measured.Measure(product, m);
      GemmChoices choices;
      choices.Set(product, m, choice);
      measured.Use(choices);
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
