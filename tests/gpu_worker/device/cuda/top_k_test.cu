// Selection against sorting on the host, and its times (--time).
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/top_k.h"
#include "tests/gpu_worker/device/cuda/on_device.cuh"

namespace tessera::cuda {
namespace {

class TopKTest : public testing::Test {
 protected:
  void SetUp() override {
    if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  }

  // Random numbers; `values` > 0: of so many different ones only.
  std::vector<float> Random(size_t n, int values = 0) {
    std::normal_distribution<float> normal;
    std::vector<float> numbers(n);
    for (float& x : numbers) {
      x = values > 0 ? static_cast<float>(static_cast<int>(random_() % values) - values / 2)
                     : 3 * normal(random_);
      if (x == 0 && random_() % 2 == 0) x = -0.0f;
    }
    return numbers;
  }

  void CheckTopK(const std::vector<float>& scores, const std::vector<int32_t>& candidates,
                 int64_t k) {
    std::vector<int32_t> expected = candidates;
    std::sort(expected.begin(), expected.end(), [&](int32_t a, int32_t b) {
      return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
    });
    expected.resize(k);
    std::sort(expected.begin(), expected.end());
    const OnDevice<float> on_scores(scores);
    const OnDevice<int32_t> on_candidates(candidates), picked(std::vector<int32_t>(k + 3, -77));
    const size_t bytes = TopKWorkspace(candidates.size(), k);
    const OnDevice<uint8_t> workspace(std::vector<uint8_t>(bytes, 0xff));
    TopK(on_scores.get(), on_candidates.get(), candidates.size(), k, picked.get(), workspace.get(),
         bytes, nullptr);
    expected.resize(k + 3, -77);
    ASSERT_EQ(picked.Get(), expected) << "of " << candidates.size() << " best " << k;
  }

  std::mt19937 random_{5};
};

TEST_F(TopKTest, EqualsSorting) {
  for (const int rows : {1, 2, 31, 1000, 1024, 5000, 70000}) {
    for (const int values : {0, 1, 7, 300}) {
      const std::vector<float> scores = Random(rows + 50, values);
      std::vector<int32_t> candidates(rows + 50);
      std::iota(candidates.begin(), candidates.end(), 0);
      std::shuffle(candidates.begin(), candidates.end(), random_);
      candidates.resize(rows);
      for (const bool sorted : {false, true}) {
        if (sorted) std::sort(candidates.begin(), candidates.end());
        for (const int k : {1, rows / 7, rows / 2, rows - 1, rows}) {
          CheckTopK(scores, candidates, std::max(0, k));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(TopKTest, ArgMax) {
  for (const int cols : {1, 5, 1023, 32000, 151937}) {
    for (const int values : {0, 2}) {
      const int rows = 17, stride = cols + 3;
      std::vector<float> logits = Random(rows * stride, values);
      for (int r = 0; r < rows; ++r) logits[r * stride + cols] = INFINITY;
      std::fill_n(logits.begin() + 2 * stride, cols, -INFINITY);
      const OnDevice<float> on_device(logits), best(std::vector<float>(rows, NAN));
      const OnDevice<int32_t> ids(std::vector<int32_t>(rows, -1));
      ArgMaxRows({on_device.get(), rows, cols, stride}, ids.get(), best.get(), nullptr);
      const std::vector<int32_t> found = ids.Get();
      const std::vector<float> found_best = best.Get();
      for (int r = 0; r < rows; ++r) {
        const auto row = logits.begin() + r * stride;
        const auto most = std::max_element(row, row + cols);
        EXPECT_EQ(found[r], most - row) << "row " << r << " of " << cols;
        EXPECT_EQ(found_best[r], *most);
      }
    }
  }
}

// Log-sum-exp within 1e-5 of its size: float sums and the device's fast exp.
TEST_F(TopKTest, TopLogitsOfRows) {
  for (const int cols : {1, 300, 4096, 32000, 151936}) {
    for (const int values : {0, 3}) {
      for (const int most : {1, 20, 256}) {
        const int rows = 5, stride = cols + 1, k = std::min(most, cols);
        const std::vector<float> logits = Random(rows * stride, values);
        const OnDevice<float> on_device(logits), best(std::vector<float>(rows * k, NAN)),
            sums(std::vector<float>(rows, NAN));
        const OnDevice<int32_t> ids(std::vector<int32_t>(rows * k, -1));
        TopLogits({on_device.get(), rows, cols, stride}, k, best.get(), ids.get(), sums.get(),
                  nullptr);
        const std::vector<int32_t> found = ids.Get();
        const std::vector<float> found_best = best.Get(), found_sums = sums.Get();
        for (int r = 0; r < rows; ++r) {
          const float* row = logits.data() + r * stride;
          std::vector<int32_t> order(cols);
          std::iota(order.begin(), order.end(), 0);
          std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int a, int b) {
            return row[a] != row[b] ? row[a] > row[b] : a < b;
          });
          double sum = 0;
          for (int i = 0; i < cols; ++i) sum += std::exp(static_cast<double>(row[i]));
          EXPECT_NEAR(found_sums[r], std::log(sum), 1e-5 * std::max(1.0, std::abs(std::log(sum))));
          for (int i = 0; i < k; ++i) {
            ASSERT_EQ(found[r * k + i], order[i]) << "row " << r << " of " << cols << " best " << i;
            ASSERT_EQ(found_best[r * k + i], row[order[i]]);
          }
        }
      }
    }
  }
}

TEST_F(TopKTest, NothingToDo) {
  TopK(nullptr, nullptr, 0, 0, nullptr, nullptr, 0, nullptr);
  ArgMaxRows({}, nullptr, nullptr, nullptr);
  TopLogits({}, 1, nullptr, nullptr, nullptr, nullptr);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

// ---- times

void TimeRows(int rows, int cols) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(int64_t{rows} * cols);
  for (float& x : numbers) x = 3 * normal(random);
  const OnDevice<float> logits(numbers), values(std::vector<float>(rows * 256)),
      sums(std::vector<float>(rows, 0.0f));
  const OnDevice<int32_t> ids(std::vector<int32_t>(rows * 256));
  const F32Rows all = {logits.get(), rows, cols, cols};
  const double best = MedianOf(
      10, [&](int, cudaStream_t stream) { ArgMaxRows(all, ids.get(), values.get(), stream); });
  double top[2];
  for (int i = 0; i < 2; ++i) {
    top[i] = MedianOf(10, [&](int, cudaStream_t stream) {
      TopLogits(all, i == 0 ? 20 : 256, values.get(), ids.get(), sums.get(), stream);
    });
  }
  std::printf(
      "rows %2d cols %6d: arg max %6.2f us, top 20 %6.2f us, top 256 %6.2f us, floor %.2f\n", rows,
      cols, best, top[0], top[1], 4.0 * rows * cols / 3.0e6);
}

void TimeTopK(int count, int k) {
  std::mt19937 random(1);
  std::vector<float> numbers(count);
  for (float& x : numbers) x = std::exp(std::normal_distribution<float>(-6, 2)(random));
  std::vector<int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  const OnDevice<float> scores(numbers);
  const OnDevice<int32_t> candidates(rows), picked(rows);
  const size_t bytes = TopKWorkspace(count, k);
  const OnDevice<uint8_t> workspace(std::vector<uint8_t>(bytes, 0));
  const double time = MedianOf(10, [&](int, cudaStream_t stream) {
    TopK(scores.get(), candidates.get(), count, k, picked.get(), workspace.get(), bytes, stream);
  });
  std::printf("top %6d of %6d: %6.2f us\n", k, count, time);
}

void TimeAll() {
  for (const int rows : {1, 32, 64}) {
    for (const int cols : {32000, 151936}) TimeRows(rows, cols);
  }
  TimeTopK(1024, 150);
  TimeTopK(8192, 1200);
  TimeTopK(32768, 5000);
  TimeTopK(131072, 20000);
}

}  // namespace
}  // namespace tessera::cuda

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--time") == 0) {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    tessera::cuda::TimeAll();
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
