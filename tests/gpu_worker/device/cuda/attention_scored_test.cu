// AttendScored against plain loops in double, and its times (--time).
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/attention_scored.h"
#include "gpu_worker/device/cuda/check.h"
#include "tests/gpu_worker/device/cuda/on_device.cuh"

namespace tessera::cuda {
namespace {

constexpr int kBlock = KvView::kBlockSlots;

struct Case {
  int kv_heads, group, head_dim;
  std::vector<int32_t> positions;
  bool in_blocks = true;
  bool by_value_norm = true;
};

std::vector<int32_t> Last(int n, int keys) {
  std::vector<int32_t> positions(n);
  std::iota(positions.begin(), positions.end(), keys - n);
  return positions;
}

struct Results {
  std::vector<uint16_t> out;
  std::vector<float> scores;
};

class Inputs {
 public:
  explicit Inputs(const Case& c) : c_(c) {
    std::mt19937 random(c.group + c.positions.size());
    std::normal_distribution<float> normal;
    const int last = c.positions.back(), width = last / kBlock + 1;
    slots_ = last + 1 + 37;
    blocks_.resize(width + 5);
    std::iota(blocks_.begin(), blocks_.end(), 0);
    if (c.in_blocks) std::shuffle(blocks_.begin(), blocks_.end(), random);
    // Without blocks a head has just the slots that are seen.
    head_slots_ = c.in_blocks ? int64_t(blocks_.size()) * kBlock : last + 1;
    k_.assign(c.kv_heads * head_slots_ * c.head_dim, kNaN);
    v_ = k_;
    for (int h = 0; h < c.kv_heads; ++h) {
      for (int s = 0; s <= last; ++s) {
        for (int d = 0; d < c.head_dim; ++d) {
          k_[At(h, s) + d] = ToBits(normal(random));
          v_[At(h, s) + d] = ToBits(normal(random));
        }
      }
    }
    cols_ = c.kv_heads * c.group * c.head_dim;
    q_.assign(c.positions.size() * (cols_ + 16), kNaN);
    for (size_t r = 0; r < c.positions.size(); ++r) {
      for (int64_t i = 0; i < cols_; ++i) q_[r * (cols_ + 16) + i] = ToBits(1.5f * normal(random));
    }
    for (int64_t s = 0; s < slots_; ++s) before_.push_back(0.001f * std::abs(normal(random)));
  }

  Results Run() const {
    const int64_t n = c_.positions.size(), out_stride = cols_ + 8;
    const OnDevice<uint16_t> q(q_), k(k_), v(v_), out(std::vector<uint16_t>(n * out_stride, kNaN));
    const OnDevice<int32_t> positions(c_.positions), blocks(blocks_);
    const OnDevice<float> scores(before_);
    const OnDevice<uint8_t> workspace(std::vector<uint8_t>(
        AttendScoredWorkspace(n, c_.kv_heads * c_.group, c_.head_dim, slots_), 0xff));
    KvView kv;
    kv.k = k.bf16();
    kv.v = v.bf16();
    kv.blocks = c_.in_blocks ? blocks.get() : nullptr;
    kv.head_slots = head_slots_;
    kv.kv_heads = c_.kv_heads;
    kv.head_dim = c_.head_dim;
    AttendScored({q.bf16(), n, cols_, cols_ + 16}, positions.get(), c_.positions.back(), kv,
                 c_.by_value_norm, {out.bf16(), n, cols_, out_stride}, scores.get(), slots_,
                 workspace.get(), nullptr);
    CUDA_OR_DIE("test", cudaDeviceSynchronize());
    return {out.Get(), scores.Get()};
  }

  // The error of out comes from rounding probabilities and result to bf16, 2^-8 each of p |v|; that
  // of scores from float sums and exp2's approximation.
  void Check(const Results& results) const {
    const int n = c_.positions.size(), d = c_.head_dim, heads = c_.kv_heads * c_.group;
    std::vector<double> scores(slots_);
    for (int head = 0; head < heads; ++head) {
      std::vector<double> paid(slots_);
      for (int r = 0; r < n; ++r) {
        const std::vector<double> p = Probabilities(r, head);
        std::vector<double> out(d), size(d);
        for (size_t s = 0; s < p.size(); ++s) {
          paid[s] += c_.by_value_norm ? p[s] * p[s] : p[s];
          for (int i = 0; i < d; ++i) {
            const double x = p[s] * ToDouble(v_[At(head / c_.group, s) + i]);
            out[i] += x;
            size[i] += std::abs(x);
          }
        }
        for (int i = 0; i < d; ++i) {
          const double is = ToDouble(results.out[r * (cols_ + 8) + head * d + i]);
          ASSERT_LE(std::abs(is - out[i]), size[i] / 128 * 1.01 + 1e-6)
              << "row " << r << " head " << head << " at " << i;
        }
      }
      for (int s = 0; s <= c_.positions.back(); ++s) {
        double norm = 0;
        for (int i = 0; i < d; ++i) {
          const double x = ToDouble(v_[At(head / c_.group, s) + i]);
          norm += x * x;
        }
        scores[s] += c_.by_value_norm ? std::sqrt(paid[s] / n * norm) : paid[s] / n / heads;
      }
    }
    for (int64_t s = 0; s < slots_; ++s) {
      if (s > c_.positions.back()) {
        ASSERT_EQ(results.scores[s], before_[s]) << "slot " << s;
        continue;
      }
      ASSERT_LE(std::abs(results.scores[s] - before_[s] - scores[s]),
                1e-4 * scores[s] + 1e-6 * before_[s])
          << "slot " << s << " is " << results.scores[s] - before_[s] << " not " << scores[s];
    }
    for (int r = 0; r < n; ++r) {
      for (int i = 0; i < 8; ++i) ASSERT_EQ(results.out[r * (cols_ + 8) + cols_ + i], kNaN);
    }
  }

 private:
  int64_t At(int head, int64_t slot) const {
    const int64_t at =
        c_.in_blocks ? int64_t{blocks_[slot / kBlock]} * kBlock + slot % kBlock : slot;
    return (head * head_slots_ + at) * c_.head_dim;
  }

  std::vector<double> Probabilities(int row, int head) const {
    std::vector<double> p(c_.positions[row] + 1);
    double most = -1e300, sum = 0;
    for (size_t s = 0; s < p.size(); ++s) {
      const uint16_t* q = q_.data() + row * (cols_ + 16) + head * c_.head_dim;
      const uint16_t* k = k_.data() + At(head / c_.group, s);
      for (int i = 0; i < c_.head_dim; ++i) p[s] += ToDouble(q[i]) * ToDouble(k[i]);
      p[s] /= std::sqrt(static_cast<double>(c_.head_dim));
      most = std::max(most, p[s]);
    }
    for (double& x : p) sum += x = std::exp(x - most);
    for (double& x : p) x /= sum;
    return p;
  }

  const Case c_;
  int64_t slots_, head_slots_, cols_;
  std::vector<int32_t> blocks_;
  std::vector<uint16_t> q_, k_, v_;
  std::vector<float> before_;
};

class AttendScoredTest : public testing::Test {
 protected:
  void SetUp() override {
    if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(AttendScoredTest, EqualsPlainLoops) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int group : {1, 3, 4, 8}) {
      for (const int n : {1, 17, 33}) {
        SCOPED_TRACE(testing::Message()
                     << "head_dim " << head_dim << " group " << group << " n " << n);
        const Inputs inputs({2, group, head_dim, Last(n, 250 + group), n != 17, group != 3});
        inputs.Check(inputs.Run());
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(AttendScoredTest, RowsLieApart) {
  const Inputs inputs({2, 4, 128, {0, 1, 62, 63, 64, 200, 201, 512, 513, 700}});
  inputs.Check(inputs.Run());
}

TEST_F(AttendScoredTest, TheWholePrompt) {
  const Inputs inputs({2, 4, 64, Last(200, 200), true, false});
  inputs.Check(inputs.Run());
}

TEST_F(AttendScoredTest, ManyKeysAndTheSameBitsTwice) {
  const Inputs inputs({4, 4, 128, Last(32, 5000)});
  const Results results = inputs.Run(), again = inputs.Run();
  inputs.Check(results);
  EXPECT_EQ(results.out, again.out);
  EXPECT_EQ(results.scores, again.scores);
}

TEST_F(AttendScoredTest, EightHeadsOfManyKeys) {
  for (const bool in_blocks : {false, true}) {
    const Inputs inputs({8, 4, 128, Last(6, 8192), in_blocks});
    const Results results = inputs.Run(), again = inputs.Run();
    inputs.Check(results);
    EXPECT_EQ(results.out, again.out);
    EXPECT_EQ(results.scores, again.scores);
  }
}

TEST_F(AttendScoredTest, WideGroup) {
  const Inputs inputs({1, 24, 96, Last(21, 777), false, true});
  inputs.Check(inputs.Run());
}

TEST_F(AttendScoredTest, NoRowsLaunchNothing) {
  AttendScored({}, nullptr, -1, {}, true, {}, nullptr, 0, nullptr, nullptr);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

// ---- times

// Median microseconds of one launch, of a graph of several, each over K and V of its own.
void Time(int n, int keys, int kv_heads, int group, int head_dim, bool once = false) {
  constexpr int kLayers = 8;
  const int64_t cols = kv_heads * group * head_dim, layer = int64_t{keys} * kv_heads * head_dim;
  OnDevice<uint32_t> k(kLayers * layer / 2), v(kLayers * layer / 2), q(n * cols / 2),
      out(n * cols / 2);
  FillRandom<<<1024, 256>>>(k.get(), kLayers * layer / 2);
  FillRandom<<<1024, 256>>>(v.get(), kLayers * layer / 2);
  FillRandom<<<64, 256>>>(q.get(), n * cols / 2);
  const OnDevice<int32_t> positions(Last(n, keys));
  const OnDevice<float> scores(std::vector<float>(keys, 0.0f));
  const OnDevice<uint8_t> workspace(AttendScoredWorkspace(n, kv_heads * group, head_dim, keys));
  const auto launch = [&](int i, cudaStream_t stream) {
    KvView kv;
    kv.k = k.bf16() + i * layer;
    kv.v = v.bf16() + i * layer;
    kv.head_slots = keys;
    kv.kv_heads = kv_heads;
    kv.head_dim = head_dim;
    AttendScored({q.bf16(), n, cols, cols}, positions.get(), keys - 1, kv, true,
                 {out.bf16(), n, cols, cols}, scores.get(), keys, workspace.get(), stream);
  };
  if (once) {
    for (int i = 0; i < kLayers; ++i) launch(i, nullptr);
    CUDA_OR_DIE("time", cudaDeviceSynchronize());
    return;
  }
  const double us = MedianOf(kLayers, launch), flops = 6.0 * n * keys * cols;
  std::printf("n %3d keys %6d heads %d/%d dim %3d: %7.2f us, floor %6.2f (bytes) %6.2f (flops)\n",
              n, keys, kv_heads * group, kv_heads, head_dim, us, 4.0 * layer / 3.0e6,
              flops / 750e6);
}

void TimeAll() {
  for (const int n : {1, 8, 32, 64, 128, 300}) Time(n, 8192, 8, 4, 128);
  Time(32, 1024, 8, 4, 128);
  Time(32, 2048, 8, 4, 128);
  Time(32, 4096, 8, 4, 128);
  Time(32, 32768, 8, 4, 128);
  Time(32, 8192, 2, 7, 64);
  Time(32, 8192, 32, 1, 96);
  Time(32, 8192, 8, 2, 256);
}

}  // namespace
}  // namespace tessera::cuda

int main(int argc, char** argv) {
  // For a profiler.
  if (argc > 1 && std::strcmp(argv[1], "--once") == 0) {
    tessera::cuda::Time(32, 8192, 8, 4, 128, true);
    return 0;
  }
  if (argc > 1 && std::strcmp(argv[1], "--time") == 0) {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    tessera::cuda::TimeAll();
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
