// The row and placing kernels against plain loops in double precision, over odd shapes; with
// --time, their speed beside that of memory.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/kernels.h"
#include "gpu_worker/device/cuda/place.h"
#include "gpu_worker/device/cuda/rows.h"
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
using RowsTest = CudaTest;
using PlaceTest = CudaTest;

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
      if (with_q) {
        RotateAndWrite(q.view(), k.view(), v.view(), on_device.device(), memory.blocks.device(), 2,
                       angles.view(), pool, nullptr);
      } else {
        WriteKvRows(k.view(), v.view(), on_device.device(), memory.blocks.device(), 2,
                    angles.view(), pool, nullptr);
      }
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
  TimePlace();
  for (int64_t rows : {8192, 1261, 8, 1}) TimeRows(rows);
}

}  // namespace
}  // namespace tessera::cuda

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--time-place") == 0) {
      tessera::cuda::TimePlace();
      return 0;
    }
    if (std::strcmp(argv[i], "--time") == 0) {
      tessera::cuda::Time();
      return 0;
    }
  }
  return RUN_ALL_TESTS();
}
