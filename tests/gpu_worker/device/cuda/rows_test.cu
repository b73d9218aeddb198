// The row kernels against plain loops in double precision, over odd shapes; with --time, their
// speed beside that of memory.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "gpu_worker/device/cuda/place.h"
#include "gpu_worker/device/cuda/rows.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/device/cuda/rows_case.cuh"

namespace tessera::cuda {
namespace {

using RowsTest = CudaTest;

TEST_F(RowsTest, EmbedsIds) {
  for (int64_t rows : {0, 1, 17, 300}) {
    Bf16Table table(50, 576, 0);
    std::vector<uint32_t> ids(rows);
    for (uint32_t& id : ids) id = Random()() % 50;
    Array<uint32_t> on_device(ids);
    F32Table out(rows, 576, 12, true);
    EmbedRows(table.view().data, 576, on_device.device(), out.view(), nullptr);
    out.Expect([&](int64_t r, int64_t c) { return table.at(ids[r], c); }, 0);
  }
}

TEST_F(RowsTest, NormsRows) {
  for (int64_t cols : {8, 576, 1536, 4096, 8192, 9000, 16384}) {
    for (int64_t rows : {0, 1, 17}) {
      F32Table x(rows, cols, 4), gain(1, cols, 0);
      Bf16Table out(rows, cols, 8, true);
      RmsNorm(x.view(), gain.view().data, 1e-5f, out.view(), nullptr);
      std::vector<double> scale(rows);
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < cols; ++c) sum += x.at(r, c) * x.at(r, c);
        scale[r] = 1 / std::sqrt(sum / cols + 1e-5);
      }
      out.Expect([&](int64_t r, int64_t c) { return x.at(r, c) * scale[r] * gain.at(0, c); },
                 1.01 * kBf16Half);
    }
  }
}

TEST_F(RowsTest, NormsHeads) {
  for (int head_dim : {8, 64, 80, 96, 128, 256, 512}) {
    for (int64_t rows : {0, 1, 17}) {
      Bf16Table x(rows, 3 * head_dim, 8);
      F32Table gain(1, head_dim, 0);
      RmsNormHeads(x.view(), gain.view().data, head_dim, 1e-6f, nullptr);
      x.Expect(
          [&](int64_t r, int64_t c) {
            double sum = 0;
            const int64_t first = c / head_dim * head_dim;
            for (int64_t i = first; i < first + head_dim; ++i) sum += x.at(r, i) * x.at(r, i);
            return x.at(r, c) / std::sqrt(sum / head_dim + 1e-6) * gain.at(0, c % head_dim);
          },
          1.01 * kBf16Half);
    }
  }
}

TEST_F(RowsTest, GatesHalvesOfOneBuffer) {
  for (int64_t inter : {8, 1536, 14336}) {
    for (int64_t rows : {0, 1, 17, 200}) {
      Bf16Table both(rows, 2 * inter, 0);
      const Bf16Rows view = both.view();
      SwiGlu({view.data, rows, inter, view.stride}, {view.data + inter, rows, inter, view.stride},
             nullptr);
      both.Expect(
          [&](int64_t r, int64_t c) {
            if (c >= inter) return both.at(r, c);
            return both.at(r, c) / (1 + std::exp(-both.at(r, c))) * both.at(r, c + inter);
          },
          1.02 * kBf16Half, 1e-30);
    }
  }
}

TEST_F(RowsTest, GateOfLargeNumbersIsExact) {
  Bf16Table gate(1, 8, 0), up(1, 8, 0);
  std::vector<__nv_bfloat16> large = {-1e4f, -200.0f, -90.0f, -88.0f, 88.0f, 90.0f, 200.0f, 1e30f};
  CUDA_OR_DIE("test", cudaMemcpy(gate.view().data, large.data(), 16, cudaMemcpyHostToDevice));
  SwiGlu(gate.view(), up.view(), nullptr);
  gate.Expect(
      [&](int64_t, int64_t c) {
        const double x = ToDouble(large[c]);
        return x < 0 ? 0 : x * up.at(0, c);
      },
      kBf16Half, 1e-30);
}

TEST_F(RowsTest, GathersAndCopies) {
  for (int64_t rows : {0, 1, 17, 700}) {
    std::vector<int32_t> indexes(rows);
    for (int32_t& i : indexes) i = Random()() % 40;
    Array<int32_t> on_device(indexes);
    F32Table x(40, 580, 4), out(rows, 580, 8, true);
    GatherRowsF32(x.view(), on_device.device(), out.view(), nullptr);
    out.Expect([&](int64_t r, int64_t c) { return x.at(indexes[r], c); }, 0);
    Bf16Table y(40, 1032, 8), to(rows, 1032, 16, true);
    GatherRowsBf16(y.view(), on_device.device(), to.view(), nullptr);
    to.Expect([&](int64_t r, int64_t c) { return y.at(indexes[r], c); }, 0);
    Bf16Table from(rows, 72, 24), copy(rows, 72, 0, true);
    CopyRows(from.view(), copy.view(), nullptr);
    copy.Expect([&](int64_t r, int64_t c) { return from.at(r, c); }, 0);
    F32Table wide(rows, 83, 6);
    Bf16Table narrow(rows, 83, 13, true);
    F32ToBf16(wide.view(), narrow.view(), nullptr);
    narrow.Expect([&](int64_t r, int64_t c) { return __bfloat162float(wide.at(r, c)); }, 0);
    F32Table wide8(rows, 584, 4);
    Bf16Table narrow8(rows, 584, 8, true);
    F32ToBf16(wide8.view(), narrow8.view(), nullptr);
    narrow8.Expect([&](int64_t r, int64_t c) { return __bfloat162float(wide8.at(r, c)); }, 0);
  }
}

TEST_F(RowsTest, RoundsToSlice) {
  for (int64_t rows : {0, 1, 17, 256}) {
    Bf16Table k(rows, 640, 8), v(rows, 640, 8), to_k(rows, 640, 0, true), to_v(rows, 640, 0, true);
    RoundToSlice(k.view(), v.view(), to_k.view().data, to_v.view().data, nullptr);
    to_k.Expect([&](int64_t r, int64_t c) { return k.at(r, c); }, 0);
    to_v.Expect([&](int64_t r, int64_t c) { return v.at(r, c); }, 0);
  }
}

TEST_F(RowsTest, DeviatesFromSlices) {
  const int64_t cols = 320, pieces = 70;
  std::vector<Slice> slices;
  std::vector<std::unique_ptr<Bf16Table>> k, v;
  int32_t first = 3;
  for (int i = 0; i < pieces; ++i) {
    const int32_t tokens = i % 5 == 0 ? 0 : 1 + i % 23;
    k.push_back(std::make_unique<Bf16Table>(tokens, cols, 0));
    v.push_back(std::make_unique<Bf16Table>(tokens, cols, 0));
    slices.push_back({k.back()->view().data, v.back()->view().data, tokens, first});
    first += tokens;
  }
  Bf16Table fresh(first, cols, 8);
  for (bool of_v : {false, true}) {
    F32Table scores(1, first + 2, 0, true);
    Deviation(fresh.view(), slices.data(), static_cast<int>(slices.size()), of_v,
              scores.view().data, nullptr);
    std::vector<float> now(first + 2);
    CUDA_OR_DIE("test",
                cudaMemcpy(now.data(), scores.view().data, now.size() * 4, cudaMemcpyDeviceToHost));
    EXPECT_TRUE(std::isnan(now[2]) && std::isnan(now[first]));
    for (int i = 0; i < pieces; ++i) {
      const Bf16Table& cached = of_v ? *v[i] : *k[i];
      for (int32_t t = 0; t < slices[i].tokens; ++t) {
        double sum = 0;
        for (int64_t c = 0; c < cols; ++c) {
          const double d = fresh.at(slices[i].first + t, c) - cached.at(t, c);
          sum += d * d;
        }
        ASSERT_NEAR(now[slices[i].first + t], sum, 1e-5 * sum);
      }
    }
  }
}

void TimeRows(int64_t rows) {
  constexpr int kSets = 6;
  constexpr int64_t kHidden = 4096, kInter = 14336;
  char name[64];
  auto say = [&](const char* what) {
    std::snprintf(name, sizeof(name), "%s, %d rows", what, static_cast<int>(rows));
    return name;
  };
  float* x = Memory8<float>(kSets * rows * kHidden);
  float* gain = Memory8<float>(kHidden);
  __nv_bfloat16* y = Memory8<__nv_bfloat16>(kSets * rows * 2 * kInter);
  auto wide = [&](int i) {
    return F32Rows{x + i % kSets * rows * kHidden, rows, kHidden, kHidden};
  };
  auto columns = [&](int i, int64_t first, int64_t cols, int64_t stride) {
    return Bf16Rows{y + i % kSets * rows * 2 * kInter + first, rows, cols, stride};
  };
  Report(say("RmsNorm 4096"), 6.0 * rows * kHidden, MedianUs([&](int i) {
           RmsNorm(wide(i), gain, 1e-5f, columns(i, 0, kHidden, kHidden), nullptr);
         }));
  Report(say("SwiGlu 14336"), 6.0 * rows * kInter, MedianUs([&](int i) {
           SwiGlu(columns(i, 0, kInter, 2 * kInter), columns(i, kInter, kInter, 2 * kInter),
                  nullptr);
         }));
  Report(say("RmsNormHeads 32 of 128"), 4.0 * rows * kHidden, MedianUs([&](int i) {
           RmsNormHeads(columns(i, 0, kHidden, 6144), gain, 128, 1e-5f, nullptr);
         }));
  Report(say("CopyRows 4096"), 4.0 * rows * kHidden, MedianUs([&](int i) {
           CopyRows(columns(i, 0, kHidden, 6144), columns(i, 6144 * rows, kHidden, kHidden),
                    nullptr);
         }));
  const Angles angles(64, static_cast<int>(rows));
  std::vector<int32_t> positions(rows);
  std::iota(positions.begin(), positions.end(), 0);
  Array<int32_t> on_device(positions);
  const int64_t slots = (rows + 63) / 64 * 64;
  Array<int32_t> blocks(Memory::Blocks(slots / 64));
  __nv_bfloat16* kv = Memory8<__nv_bfloat16>(kSets * 2 * slots * 1024);
  Report(say("RotateAndWrite 32 + 8 heads"), 4.0 * rows * 6144, MedianUs([&](int i) {
           __nv_bfloat16* k = kv + i % kSets * 2 * slots * 1024;
           RotateAndWrite(columns(i, 0, 4096, 6144), columns(i, 4096, 1024, 6144),
                          columns(i, 5120, 1024, 6144), on_device.device(), angles.view(),
                          {k, k + slots * 1024, blocks.device(), slots, 8, 128}, nullptr);
         }));
  const Slice slice = {y + kSets * rows * kInter, y + kSets * rows * kInter,
                       static_cast<int32_t>(rows), 0};
  Report(say("Deviation 1024"), 4.0 * rows * 1024, MedianUs([&](int i) {
           Deviation(columns(i, 0, 1024, 6144), &slice, 1, false, x, nullptr);
         }));
  cudaFree(x);
  cudaFree(gain);
  cudaFree(y);
  cudaFree(kv);
}

void Time() {
  std::printf("floor: bytes read and written at %.1f TB/s; enqueued 8 at a time, with overlap\n",
              kTerabytesPerSecond);
  for (int64_t rows : {8192, 1261, 8, 1}) TimeRows(rows);
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
