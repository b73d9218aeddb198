// The kernels that bring rows and chunks into KV memory against plain loops in double precision,
// over odd shapes; with --time, their speed beside that of memory.
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

using PlaceTest = CudaTest;

constexpr int kHeadDims[] = {20, 64, 72, 80, 96, 128, 256};

TEST_F(PlaceTest, RotatesRows) {
  for (int dim : kHeadDims) {
    const Angles angles(dim / 2, 400);
    for (int64_t rows : {0, 1, 17, 200}) {
      Bf16Table x(rows, 4 * dim, 8);
      std::vector<int32_t> positions(rows);
      for (int32_t& p : positions) p = Random()() % 400;
      Array<int32_t> on_device(positions);
      RotateRows(x.view(), on_device.device(), angles.view(), nullptr);
      x.Expect(
          [&](int64_t r, int64_t c) {
            return angles.Rotated([&](int64_t i) { return x.at(r, i); }, c, positions[r]);
          },
          1.02 * kBf16Half, 1e-4);
    }
  }
}

// K and V of 3 heads written to shuffled blocks, with q's 6 heads in the same launch or alone.
void WriteOnce(int dim, int64_t rows, bool in_blocks, bool with_q) {
  const Angles angles(dim / 2, 330);
  Memory memory(3, dim, 330, in_blocks);
  Bf16Table q(rows, 6 * dim, 16), k(rows, 3 * dim, 8), v(rows, 3 * dim, 24);
  std::vector<int32_t> positions(330);
  std::iota(positions.begin(), positions.end(), 0);
  std::shuffle(positions.begin(), positions.end(), Random());
  positions.resize(rows);
  Array<int32_t> on_device(positions);
  if (with_q) {
    RotateAndWrite(q.view(), k.view(), v.view(), on_device.device(), angles.view(), memory.view(),
                   nullptr);
  } else {
    WriteKv(k.view(), v.view(), on_device.device(), angles.view(), memory.view(), nullptr);
  }
  Wanted wanted(memory);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < 3 * dim; ++c) {
      const int64_t at = memory.Row(c / dim, positions[r]) * dim + c % dim;
      wanted.k[at] = angles.Rotated([&](int64_t i) { return k.at(r, i); }, c, positions[r]);
      wanted.v[at] = v.at(r, c);
    }
  }
  wanted.Expect();
  k.Expect([&](int64_t r, int64_t c) { return k.at(r, c); }, 0);
  q.Expect(
      [&](int64_t r, int64_t c) {
        if (!with_q) return q.at(r, c);
        return angles.Rotated([&](int64_t i) { return q.at(r, i); }, c, positions[r]);
      },
      1.02 * kBf16Half, 1e-4);
}

TEST_F(PlaceTest, WritesKv) {
  for (int dim : kHeadDims) {
    for (int64_t rows : {0, 1, 17, 300}) {
      WriteOnce(dim, rows, false, false);
      WriteOnce(dim, rows, true, false);
      WriteOnce(dim, rows, true, true);
    }
  }
}

// Row r is request r's, whose table is the r-th third of the blocks.
TEST_F(PlaceTest, WritesRowsOfManyRequests) {
  for (int dim : kHeadDims) {
    for (bool with_q : {false, true}) {
      const Angles angles(dim / 2, 128);
      Memory memory(4, dim, 3 * 128 - 128, true);
      Bf16Table q(3, 4 * dim, 0), k(3, 4 * dim, 0), v(3, 4 * dim, 0);
      const std::vector<int32_t> positions = {5, 70, 127};
      Array<int32_t> on_device(positions);
      KvView pool = memory.view();
      pool.blocks = nullptr;
      RotateAndWrite(with_q ? q.view() : Bf16Rows(), k.view(), v.view(), on_device.device(),
                     memory.blocks.device(), 2, angles.view(), pool, nullptr);
      Wanted wanted(memory);
      for (int64_t r = 0; r < 3; ++r) {
        for (int64_t c = 0; c < 4 * dim; ++c) {
          const int64_t at = memory.Row(c / dim, r * 128 + positions[r]) * dim + c % dim;
          wanted.k[at] = angles.Rotated([&](int64_t i) { return k.at(r, i); }, c, positions[r]);
          wanted.v[at] = v.at(r, c);
        }
      }
      wanted.Expect();
    }
  }
}

TEST_F(PlaceTest, PlacesSlices) {
  for (int dim : kHeadDims) {
    for (int pieces : {0, 1, 5, 70}) {
      const int heads = dim == 64 ? 1 : 3;
      std::vector<Slice> slices;
      std::vector<std::unique_ptr<Bf16Table>> k, v;
      int32_t first = 2;
      for (int i = 0; i < pieces; ++i) {
        const int32_t tokens = i % 4 == 3 ? 0 : 1 + i % 19;
        k.push_back(std::make_unique<Bf16Table>(tokens, heads * dim, 0));
        v.push_back(std::make_unique<Bf16Table>(tokens, heads * dim, 0));
        slices.push_back({k.back()->view().data, v.back()->view().data, tokens, first});
        first += tokens + i % 2;
      }
      const Angles angles(dim / 2, first);
      Memory memory(heads, dim, first, pieces % 2 == 1);
      PlaceSlices(slices.data(), pieces, angles.view(), memory.view(), nullptr);
      Wanted wanted(memory);
      for (int i = 0; i < pieces; ++i) {
        for (int32_t t = 0; t < slices[i].tokens; ++t) {
          for (int64_t c = 0; c < heads * dim; ++c) {
            const int32_t position = slices[i].first + t;
            const int64_t at = memory.Row(c / dim, position) * dim + c % dim;
            wanted.k[at] = angles.Rotated([&](int64_t j) { return k[i]->at(t, j); }, c, position);
            wanted.v[at] = v[i]->at(t, c);
          }
        }
      }
      wanted.Expect();
    }
  }
}

void TimePlace() {
  constexpr int kLayers = 8, kChunks = 8, kTokens = 1020, kPiece = 256, kWidth = 1024;
  constexpr int64_t kAll = kChunks * kTokens;
  const Angles angles(64, kAll);
  __nv_bfloat16* from = Memory8<__nv_bfloat16>(kLayers * 2 * kAll * kWidth);
  const int64_t slots = (kAll + 63) / 64 * 64;
  __nv_bfloat16* to = Memory8<__nv_bfloat16>(kLayers * 2 * slots * kWidth);
  Array<int32_t> blocks(Memory::Blocks(slots / 64));
  std::vector<std::vector<Slice>> slices(kLayers);
  for (int layer = 0; layer < kLayers; ++layer) {
    const __nv_bfloat16* at = from + layer * 2 * kAll * kWidth;
    for (int first = 0; first < kAll; first += kTokens) {
      for (int t = 0; t < kTokens; t += kPiece) {
        const int32_t tokens = std::min(kPiece, kTokens - t);
        slices[layer].push_back({at, at + tokens * kWidth, tokens, first + t});
        at += 2 * tokens * kWidth;
      }
    }
  }
  const float us = MedianUs([&](int i) {
    const int layer = i % kLayers;
    __nv_bfloat16* k = to + layer * 2 * slots * kWidth;
    PlaceSlices(slices[layer].data(), static_cast<int>(slices[layer].size()), angles.view(),
                {k, k + slots * kWidth, blocks.device(), slots, 8, 128}, nullptr);
  });
  Report("PlaceSlices 8 x 1020 tokens of 1024", 8.0 * kAll * kWidth, us);
  cudaFree(from);
  cudaFree(to);
}

}  // namespace
}  // namespace tessera::cuda

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--time") == 0) {
      tessera::cuda::TimePlace();
      return 0;
    }
  }
  return RUN_ALL_TESTS();
}
