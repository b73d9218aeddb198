// DecodeAttend against plain loops in double, and its times (--time).
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/attention_decode.h"
#include "gpu_worker/device/cuda/check.h"
#include "tests/gpu_worker/device/cuda/on_device.cuh"

namespace tessera::cuda {
namespace {

constexpr int kBlock = KvView::kBlockSlots;

struct Case {
  int kv_heads, group, head_dim;
  std::vector<int32_t> positions;
  int spare_width = 0;  // table entries beyond the longest row
};

// Inputs of a case on the host and the device: blocks shuffled over the pool, NaN wherever nothing
// was written.
struct Batch {
  explicit Batch(const Case& c, int seed = 1) : c(c), random(seed) {
    rows = static_cast<int>(c.positions.size());
    heads = c.kv_heads * c.group;
    const int longest = *std::max_element(c.positions.begin(), c.positions.end());
    width = std::max(1, (longest + kBlock) / kBlock) + c.spare_width;
    std::vector<int32_t> needed;
    int blocks = 2;
    for (const int32_t p : c.positions) blocks += (p + kBlock) / kBlock;
    std::vector<int32_t> order(blocks);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    head_slots = int64_t{blocks} * kBlock;
    tables.assign(size_t(rows) * width, -1000000);  // what must not be read
    k.assign(c.kv_heads * head_slots * c.head_dim, kNaN);
    v = k;
    int next = 0;
    for (int r = 0; r < rows; ++r) {
      for (int b = 0; b * kBlock <= c.positions[r]; ++b) tables[r * width + b] = order[next++];
      for (int h = 0; h < c.kv_heads; ++h) {
        for (int s = 0; s <= c.positions[r]; ++s) {
          for (int d = 0; d < c.head_dim; ++d) {
            k[At(r, h, s) + d] = ToBits(normal(random));
            v[At(r, h, s) + d] = ToBits(normal(random));
          }
        }
      }
    }
    q_stride = heads * c.head_dim + 24;
    q.assign(rows * q_stride, kNaN);
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < heads * c.head_dim; ++i) {
        q[r * q_stride + i] = ToBits(1.5f * normal(random));
      }
    }
  }

  int64_t At(int r, int h, int s) const {
    return (h * head_slots + int64_t{tables[r * width + s / kBlock]} * kBlock + s % kBlock) *
           c.head_dim;
  }

  // Row r, head h: out and the sum of p |v|, on which the error bound rests.
  void Expected(int r, int h, std::vector<double>* out, std::vector<double>* size) const {
    const int keys = c.positions[r] + 1, d = c.head_dim;
    std::vector<double> p(keys);
    double most = -1e300, sum = 0;
    for (int s = 0; s < keys; ++s) {
      for (int i = 0; i < d; ++i) {
        p[s] += ToDouble(q[r * q_stride + h * d + i]) * ToDouble(k[At(r, h / c.group, s) + i]);
      }
      p[s] /= std::sqrt(static_cast<double>(d));
      most = std::max(most, p[s]);
    }
    for (double& x : p) sum += x = std::exp(x - most);
    out->assign(d, 0);
    size->assign(d, 0);
    for (int s = 0; s < keys; ++s) {
      for (int i = 0; i < d; ++i) {
        const double x = p[s] / sum * ToDouble(v[At(r, h / c.group, s) + i]);
        (*out)[i] += x;
        (*size)[i] += std::abs(x);
      }
    }
  }

  const Case c;
  std::mt19937 random;
  std::normal_distribution<float> normal;
  int rows, heads, width;
  int64_t head_slots, q_stride;
  std::vector<int32_t> tables;
  std::vector<uint16_t> q, k, v;
};

// A batch's launch, and its result with NaN around it.
struct Launch {
  explicit Launch(const Batch& b)
      : q(b.q),
        k(b.k),
        v(b.v),
        positions(b.c.positions),
        tables(b.tables),
        out_stride(b.heads * b.c.head_dim + 8),
        out(std::vector<uint16_t>(b.rows * out_stride, kNaN)),
        workspace(std::vector<uint8_t>(
            DecodeAttendWorkspace(b.rows, b.heads, b.c.head_dim, b.width), 0xff)),
        b(b) {}

  void Run(cudaStream_t stream) {
    const int64_t cols = b.heads * b.c.head_dim;
    KvView pool;
    pool.k = k.bf16();
    pool.v = v.bf16();
    pool.head_slots = b.head_slots;
    pool.kv_heads = b.c.kv_heads;
    pool.head_dim = b.c.head_dim;
    DecodeAttend({q.bf16(), b.rows, cols, b.q_stride}, positions.get(), tables.get(), b.width, pool,
                 {out.bf16(), b.rows, cols, out_stride}, workspace.get(), stream);
  }
  std::vector<uint16_t> RunAndGet() {
    Run(nullptr);
    CUDA_OR_DIE("test", cudaDeviceSynchronize());
    return out.Get();
  }

  OnDevice<uint16_t> q, k, v;
  OnDevice<int32_t> positions, tables;
  int64_t out_stride;
  OnDevice<uint16_t> out;
  OnDevice<uint8_t> workspace;
  const Batch& b;
};

// Rounding of the probabilities and of the result to bf16: 2^-8 each, of p |v| and of |out|.
void Check(const Batch& b, const std::vector<uint16_t>& out, int64_t stride) {
  const int d = b.c.head_dim;
  double worst = 0;
  std::vector<double> expected, size;
  for (int r = 0; r < b.rows; ++r) {
    for (int h = 0; h < b.heads; ++h) {
      if (b.c.positions[r] < 0) {
        expected.assign(d, 0);
        size.assign(d, 0);
      } else {
        b.Expected(r, h, &expected, &size);
      }
      for (int i = 0; i < d; ++i) {
        const double error = std::abs(ToDouble(out[r * stride + h * d + i]) - expected[i]);
        ASSERT_LE(error, size[i] / 128 * 1.01 + 1e-6)
            << "row " << r << " head " << h << " at " << i;
        if (size[i] > 0) worst = std::max(worst, error / size[i] * 128);
      }
    }
    for (int64_t i = b.heads * d; i < stride; ++i) ASSERT_EQ(out[r * stride + i], kNaN);
  }
  EXPECT_LE(worst, 1.01);
}

class DecodeAttendTest : public testing::Test {
 protected:
  void SetUp() override {
    if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(DecodeAttendTest, EqualsPlainLoops) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int group : {1, 3, 4, 8, 11, 16}) {
      SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << " group " << group);
      const Batch b({2, group, head_dim, {0, 5, 15, 16, 63, 64, -1, 511, 512, 1100}}, group);
      Launch launch(b);
      Check(b, launch.RunAndGet(), launch.out_stride);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(DecodeAttendTest, ManyRows) {
  std::vector<int32_t> positions;
  for (int r = 0; r < 77; ++r) positions.push_back(r % 7 == 3 ? 900 + r : r * 5);
  const Batch b({2, 4, 64, positions});
  Launch launch(b);
  Check(b, launch.RunAndGet(), launch.out_stride);
}

TEST_F(DecodeAttendTest, LongRow) {
  const Batch b({1, 2, 64, {70000, 33000, 32767, 3}});
  Launch launch(b);
  Check(b, launch.RunAndGet(), launch.out_stride);
}

TEST_F(DecodeAttendTest, EmptyBatchLaunchesNothing) {
  DecodeAttend({}, nullptr, nullptr, 1, {}, {}, nullptr, nullptr);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

// The bits of row `of` of `many`, alone in a batch and with a wider table.
TEST_F(DecodeAttendTest, RowsHaveTheSameBitsAlone) {
  const Batch many({2, 4, 128, {700, 3000, 12, 1535, 64}});
  Launch together(many);
  const std::vector<uint16_t> all = together.RunAndGet();
  const int64_t cols = many.heads * many.c.head_dim;
  EXPECT_EQ(together.RunAndGet(), all);
  for (int r = 0; r < many.rows; ++r) {
    Batch one = many;
    one.rows = 1;
    const_cast<Case&>(one.c).positions = {many.c.positions[r]};
    one.q.assign(many.q.begin() + r * many.q_stride, many.q.begin() + (r + 1) * many.q_stride);
    one.width = many.width + 600;
    one.tables.assign(one.width, -7);
    std::copy_n(many.tables.begin() + r * many.width, many.width, one.tables.begin());
    Launch alone(one);
    const std::vector<uint16_t> row = alone.RunAndGet();
    EXPECT_TRUE(std::equal(row.begin(), row.begin() + cols, all.begin() + r * together.out_stride))
        << "row " << r;
  }
}

TEST_F(DecodeAttendTest, GraphReplaysWithOtherContents) {
  const Batch first({2, 4, 128, {700, 3000, 12, 1535}}, 1);
  Launch launch(first);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_OR_DIE("test", cudaStreamCreate(&stream));
  CUDA_OR_DIE("test", cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  launch.Run(stream);
  CUDA_OR_DIE("test", cudaStreamEndCapture(stream, &graph));
  CUDA_OR_DIE("test", cudaGraphInstantiate(&exec, graph, 0));
  CUDA_OR_DIE("test", cudaGraphLaunch(exec, stream));
  CUDA_OR_DIE("test", cudaStreamSynchronize(stream));
  Check(first, launch.out.Get(), launch.out_stride);
  // The second row is now the shortest, the first the longest; same pool.
  Batch moved = first;
  const_cast<Case&>(moved.c).positions = {2999, 699, 12, -1};
  for (int i = 0; i < first.width; ++i) {
    std::swap(moved.tables[i], moved.tables[first.width + i]);
  }
  launch.positions.Set(moved.c.positions);
  launch.tables.Set(moved.tables);
  CUDA_OR_DIE("test", cudaGraphLaunch(exec, stream));
  CUDA_OR_DIE("test", cudaStreamSynchronize(stream));
  Check(moved, launch.out.Get(), launch.out_stride);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

// ---- times

// Median microseconds of one launch, of a graph of several over different blocks of the pool.
void Time(int rows, int keys, int kv_heads, int group, int head_dim) {
  const int64_t pool_slots = 262144;
  const int heads = kv_heads * group, width = (keys + kBlock - 1) / kBlock;
  const int64_t numbers = pool_slots * kv_heads * head_dim;
  OnDevice<uint32_t> k(numbers / 2), v(numbers / 2), q(int64_t{rows} * heads * head_dim / 2),
      out(int64_t{rows} * heads * head_dim / 2);
  FillRandom<<<1024, 256>>>(k.get(), numbers / 2);
  FillRandom<<<1024, 256>>>(v.get(), numbers / 2);
  FillRandom<<<64, 256>>>(q.get(), int64_t{rows} * heads * head_dim / 2);
  std::vector<int32_t> blocks(pool_slots / kBlock);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(7));
  const int launches = std::clamp<int>(static_cast<int>(blocks.size()) / (rows * width), 1, 20);
  blocks.resize(launches * rows * width);
  OnDevice<int32_t> tables(blocks), positions(std::vector<int32_t>(rows, keys - 1));
  OnDevice<uint8_t> workspace(DecodeAttendWorkspace(rows, heads, head_dim, width));
  KvView pool;
  pool.k = k.bf16();
  pool.v = v.bf16();
  pool.head_slots = pool_slots;
  pool.kv_heads = kv_heads;
  pool.head_dim = head_dim;
  const int64_t cols = heads * head_dim;
  const double us = MedianOf(launches, [&](int i, cudaStream_t stream) {
    DecodeAttend({q.bf16(), rows, cols, cols}, positions.get(), tables.get() + i * rows * width,
                 width, pool, {out.bf16(), rows, cols, cols}, workspace.get(), stream);
  });
  const double bytes = 4.0 * rows * keys * kv_heads * head_dim;
  std::printf("rows %3d keys %6d heads %d/%d dim %3d: %8.2f us, floor %8.2f (%.0f GB/s)\n", rows,
              keys, heads, kv_heads, head_dim, us, bytes / 3.0e6, bytes / us / 1000);
}

void TimeAll() {
  Time(32, 8192, 8, 4, 128);
  Time(1, 8192, 8, 4, 128);
  Time(1, 1024, 8, 4, 128);
  Time(1, 2048, 8, 4, 128);
  Time(1, 4096, 8, 4, 128);
  Time(1, 32768, 8, 4, 128);
  Time(4, 8192, 8, 4, 128);
  Time(8, 2048, 8, 4, 128);
  Time(64, 512, 8, 4, 128);
  Time(64, 4096, 8, 4, 128);
  Time(32, 4096, 2, 7, 64);
  Time(32, 4096, 32, 1, 96);
  Time(16, 4096, 8, 16, 128);
  Time(16, 4096, 8, 2, 256);
}

}  // namespace
}  // namespace tessera::cuda

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc > 1 && std::strcmp(argv[1], "--time") == 0) {
    tessera::cuda::TimeAll();
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
