// Attend against a plain loop in double precision. `--time` prints times instead, `--time mma` or
// `--time wgmma` those of one kernel.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/device/cuda/attention.h"
#include "gpu_worker/device/cuda/check.h"
#include "tests/gpu_worker/device/cuda/attention_bench.cuh"

namespace tessera::cuda {
namespace {

bool NoDevice() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0;
}

std::string Name(const Case& c) {
  char name[160];
  std::snprintf(name, sizeof(name), "n %zu last %d heads %d/%d dim %d %s path %d",
                c.positions.size(), c.positions.empty() ? -1 : c.positions.back(), c.heads,
                c.kv_heads, c.head_dim, c.blocks ? "blocks" : "plain", static_cast<int>(c.path));
  return name;
}

// All of out is written, and nothing between its rows.
void CheckWritten(const Bench& bench, const std::vector<__nv_bfloat16>& out) {
  const int64_t cols = bench.OutStride() - Bench::kGap;
  int64_t unwritten = 0;
  int64_t overwritten = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const uint16_t bits = __bfloat16_as_ushort(out[i]);
    if (static_cast<int64_t>(i) % bench.OutStride() < cols) {
      unwritten += (bits & 0x7fff) > 0x7f80;
    } else {
      overwritten += bits != 0xffff;
    }
  }
  EXPECT_EQ(unwritten, 0);
  EXPECT_EQ(overwritten, 0);
}

// Probabilities are rounded to bf16, and so is the result: each is off by 2^-9 at most, so every
// row of a head stays within 2^-8 of what is expected, in norm. Of many rows, some are compared.
void Check(const Case& c) {
  SCOPED_TRACE(Name(c));
  Bench bench(c);
  const std::vector<__nv_bfloat16> out = bench.Poisoned();
  if (out.empty()) return;
  CheckWritten(bench, out);
  std::vector<int32_t> rows;
  const int n = static_cast<int>(c.positions.size());
  const int step = std::max(1, n / 300);
  for (int row = 0; row < n; row += step) rows.push_back(row);
  if (rows.back() != n - 1) rows.push_back(n - 1);
  const std::vector<double> expected = bench.Expected(rows);
  double worst = 0;
  int worst_row = 0;
  for (size_t i = 0; i < rows.size() * c.heads; ++i) {
    const auto* head_out = &out[rows[i / c.heads] * bench.OutStride() + i % c.heads * c.head_dim];
    double error = 0;
    double norm = 0;
    for (int d = 0; d < c.head_dim; ++d) {
      const double want = expected[i * c.head_dim + d];
      const double diff = __bfloat162float(head_out[d]) - want;
      error += diff * diff;
      norm += want * want;
    }
    const double relative = std::sqrt(error / norm);
    if (!(relative <= worst)) {
      worst = relative;
      worst_row = rows[i / c.heads];
    }
    if (std::isnan(relative)) break;
  }
  EXPECT_LE(worst, 0x1p-8) << "row " << worst_row;
}

class AttentionTest : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  }
  Case Make(int heads, int kv_heads, int head_dim, bool blocks, std::vector<int32_t> positions) {
    return {.heads = heads,
            .kv_heads = kv_heads,
            .head_dim = head_dim,
            .blocks = blocks,
            .positions = std::move(positions),
            .path = GetParam()};
  }
};

TEST_P(AttentionTest, NoRows) { Bench(Make(8, 2, 128, true, {})).Run(); }

TEST_P(AttentionTest, AllHeadDimsAndGroups) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int group : {1, 3, 4, 8}) {
      for (const bool blocks : {false, true}) {
        Check(Make(2 * group, 2, head_dim, blocks, Range(0, 1)));
        Check(Make(2 * group, 2, head_dim, blocks, Range(0, 17)));
        Check(Make(2 * group, 2, head_dim, blocks, Range(100, 261)));
        Check(Make(2 * group, 2, head_dim, blocks, Scattered(145, 1025)));
      }
    }
  }
}

TEST_P(AttentionTest, FewRowsOfManyKeys) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int n : {1, 5, 32, 100, 300}) {
      Check(Make(32, 8, head_dim, true, Range(4000, n)));
      Check(Make(8, 8, head_dim, false, Scattered(n, 3001)));
    }
  }
}

TEST_P(AttentionTest, EdgesOfTiles) {
  for (const int last : {62, 63, 64, 126, 127, 128, 129, 191, 192}) {
    Check(Make(4, 1, 128, false, Range(last, 1)));
    Check(Make(4, 1, 128, true, Range(0, last + 1)));
    Check(Make(4, 4, 64, false, Range(last / 2, last - last / 2 + 1)));
  }
}

TEST_P(AttentionTest, EqualPositions) {
  std::vector<int32_t> positions(90, 700);
  std::fill(positions.begin(), positions.begin() + 40, 3);
  Check(Make(12, 3, 128, true, positions));
}

TEST_P(AttentionTest, LargeShapes) {
  Check(Make(32, 8, 128, true, Range(0, 8192)));
  Check(Make(32, 8, 128, true, Scattered(1261, 8192)));
  Check(Make(32, 8, 128, false, Range(6144, 2048)));
  Check(Make(32, 32, 64, true, Range(0, 4096)));
}

TEST_P(AttentionTest, SameBitsEveryTime) {
  for (const int n : {32, 700}) {
    Bench bench(Make(32, 8, 128, true, Scattered(n, 5000)));
    const std::vector<__nv_bfloat16> first = bench.Poisoned();
    for (int i = 0; i < 5; ++i) {
      const std::vector<__nv_bfloat16> again = bench.Poisoned();
      EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * 2), 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, AttentionTest,
                         testing::Values(Path::kAny, Path::kMma, Path::kWgmma));

// Median time of one run in microseconds, from replays of a graph of runs that use other memory
// in turn, so that neither the host nor the cache takes part more than in use.
double Time(const std::vector<std::unique_ptr<Bench>>& benches) {
  constexpr int kRuns = 8;
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  cudaEvent_t begin;
  cudaEvent_t end;
  CUDA_OR_DIE("test", cudaStreamCreate(&stream));
  CUDA_OR_DIE("test", cudaEventCreate(&begin));
  CUDA_OR_DIE("test", cudaEventCreate(&end));
  CUDA_OR_DIE("test", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kRuns; ++i) benches[i % benches.size()]->Run(stream);
  CUDA_OR_DIE("test", cudaStreamEndCapture(stream, &graph));
  CUDA_OR_DIE("test", cudaGraphInstantiate(&replay, graph, 0));
  std::vector<float> times;
  for (int i = 0; i < 14; ++i) {
    CUDA_OR_DIE("test", cudaEventRecord(begin, stream));
    CUDA_OR_DIE("test", cudaGraphLaunch(replay, stream));
    CUDA_OR_DIE("test", cudaEventRecord(end, stream));
    CUDA_OR_DIE("test", cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OR_DIE("test", cudaEventElapsedTime(&ms, begin, end));
    if (i >= 3) times.push_back(ms);
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] * 1e3 / kRuns;
}

// The time beside the floor: seen pairs at 750 TFLOP/s, or q, out and seen K and V at 3.0 TB/s.
void PrintTime(const char* what, Case c, const std::vector<Path>& paths) {
  double pairs = 0;
  for (const int32_t position : c.positions) pairs += position + 1;
  const double flops = 4 * pairs * c.head_dim * c.heads;
  const double bytes =
      4.0 * c.head_dim *
      (c.positions.size() * c.heads + static_cast<double>(c.positions.back() + 1) * c.kv_heads);
  const double floor = std::max(flops / 750e6, bytes / 3.0e6);
  std::printf("%-34s floor %8.1f us", what, floor);
  for (const Path path : paths) {
    c.path = path;
    std::vector<std::unique_ptr<Bench>> benches;
    for (int i = 0; i < 4; ++i) benches.push_back(std::make_unique<Bench>(c, i + 1));
    if (!benches[0]->Run()) continue;
    const double us = Time(benches);
    std::printf("  %s %8.1f us %5.0f TFLOP/s", path == Path::kMma ? "mma" : "wgmma", us,
                flops / us / 1e6);
  }
  std::printf("\n");
}

// What a call takes of the host's time; the device's is less.
void PrintHostTime(Case c, Path path) {
  constexpr int kCalls = 300;
  c.path = path;
  Bench bench(c);
  bench.Run();
  CUDA_OR_DIE("test", cudaDeviceSynchronize());
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i) bench.Run();
  const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
  CUDA_OR_DIE("test", cudaDeviceSynchronize());
  std::printf("host, path %d: %.1f us a call\n", static_cast<int>(path), time.count() / kCalls);
}

void PrintTimes(const std::vector<Path>& paths) {
  const auto make = [](int heads, int kv_heads, int head_dim, std::vector<int32_t> positions) {
    return Case{.heads = heads,
                .kv_heads = kv_heads,
                .head_dim = head_dim,
                .positions = std::move(positions)};
  };
  for (const Path path : paths) PrintHostTime(make(32, 8, 128, Range(0, 20)), path);
  PrintTime("8192 rows", make(32, 8, 128, Range(0, 8192)), paths);
  PrintTime("2048 rows at 6144", make(32, 8, 128, Range(6144, 2048)), paths);
  PrintTime("2048 rows at 0", make(32, 8, 128, Range(0, 2048)), paths);
  PrintTime("640 rows at 6144", make(32, 8, 128, Range(6144, 640)), paths);
  PrintTime("256 rows at 6144", make(32, 8, 128, Range(6144, 256)), paths);
  PrintTime("256 rows at 0", make(32, 8, 128, Range(0, 256)), paths);
  PrintTime("1261 of 8192", make(32, 8, 128, Scattered(1261, 8192)), paths);
  PrintTime("2490 of 16384", make(32, 8, 128, Scattered(2490, 16384)), paths);
  PrintTime("614 of 4096", make(32, 8, 128, Scattered(614, 4096)), paths);
  PrintTime("32 rows at 8160", make(32, 8, 128, Range(8160, 32)), paths);
  PrintTime("1 row at 8191", make(32, 8, 128, Range(8191, 1)), paths);
  PrintTime("8192 rows, dim 64, 32/8", make(32, 8, 64, Range(0, 8192)), paths);
  PrintTime("8192 rows, dim 96, 32/32", make(32, 32, 96, Range(0, 8192)), paths);
  PrintTime("4096 rows, dim 80, 32/32", make(32, 32, 80, Range(0, 4096)), paths);
  PrintTime("4096 rows, dim 128, 32/32", make(32, 32, 128, Range(0, 4096)), paths);
  PrintTime("4096 rows, dim 256, 16/8", make(16, 8, 256, Range(0, 4096)), paths);
}

}  // namespace
}  // namespace tessera::cuda

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc > 1 && std::strcmp(argv[1], "--time") == 0) {
    if (tessera::cuda::NoDevice()) return 0;
    using tessera::cuda::Path;
    const std::string only = argc > 2 ? argv[2] : "";
    std::vector<Path> paths;
    if (only != "mma") paths.push_back(Path::kWgmma);
    if (only != "wgmma") paths.push_back(Path::kMma);
    tessera::cuda::PrintTimes(paths);
    return 0;
  }
  return RUN_ALL_TESTS();
}
