// Summaries of logits against sorting and sums on the host, and their times (--time).
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gpu_worker/device/cuda/check.h"
#include "gpu_worker/device/cuda/logits_summary.h"
#include "tests/gpu_worker/device/cuda/on_device.cuh"

namespace tessera::cuda {
namespace {

class LogitsSummaryTest : public testing::Test {
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

  // The k best of a row; a NaN is the least.
  static std::vector<int32_t> Order(const float* row, int cols, int k) {
    std::vector<int32_t> order(cols);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int a, int b) {
      if (std::isnan(row[a]) != std::isnan(row[b])) return std::isnan(row[b]);
      return row[a] > row[b] || (!(row[a] < row[b]) && a < b);
    });
    order.resize(k);
    return order;
  }

  static void ExpectSameMass(double found, double want) {
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(found));
    } else {
      EXPECT_NEAR(found, want, 1e-13 * want);
    }
  }

  std::mt19937 random_{5};
};

TEST_F(LogitsSummaryTest, TopLogitsOfRows) {
  for (const int cols : {1, 300, 4096, 32000, 151936}) {
    for (const int values : {0, 1, 3}) {
      for (const int most : {1, 20, 256}) {
        const int rows = 5, stride = cols + 1, k = std::min(most, cols);
        std::vector<float> logits = Random(rows * stride, values);
        std::fill_n(logits.begin() + 2 * stride, cols, -INFINITY);
        logits[2 * stride + cols / 2] = -1e30f;
        for (int r = 0; r < rows; ++r) logits[r * stride + cols] = INFINITY;
        const OnDevice<float> on_device(logits), best(std::vector<float>(rows * k, NAN));
        const OnDevice<int32_t> ids(std::vector<int32_t>(rows * k, -1));
        TopLogits({on_device.get(), rows, cols, stride}, k, best.get(), ids.get(), nullptr);
        const std::vector<int32_t> found = ids.Get();
        const std::vector<float> found_best = best.Get();
        for (int r = 0; r < rows; ++r) {
          const float* row = logits.data() + r * stride;
          const std::vector<int32_t> order = Order(row, cols, k);
          for (int i = 0; i < k; ++i) {
            ASSERT_EQ(found[r * k + i], order[i]) << "row " << r << " of " << cols << " best " << i;
            ASSERT_EQ(found_best[r * k + i], row[order[i]]);
          }
        }
      }
    }
  }
}

// Numbers come first, whatever else there is; what stands behind them is in the row.
TEST_F(LogitsSummaryTest, TopLogitsOfNaNs) {
  const int cols = 5000, k = 256;
  for (const int numbers : {0, 1, 100, 300}) {
    std::vector<float> logits(cols, NAN);
    for (int i = 0; i < numbers; ++i) logits[i * 13 + 7] = static_cast<float>(i % 11);
    const OnDevice<float> on_device(logits), best(std::vector<float>(k, 0.0f));
    const OnDevice<int32_t> ids(std::vector<int32_t>(k, -1));
    TopLogits({on_device.get(), 1, cols, cols}, k, best.get(), ids.get(), nullptr);
    const std::vector<int32_t> found = ids.Get(), order = Order(logits.data(), cols, k);
    EXPECT_EQ(found, order) << numbers << " numbers";
  }
}

// Sums of doubles in another order.
TEST_F(LogitsSummaryTest, SegmentMassesOfRows) {
  for (const int cols : {1, 1024, 1025, 151937}) {
    const int rows = 6, stride = cols + 3, segments = (cols + kSegment - 1) / kSegment;
    std::vector<float> logits = Random(rows * stride);
    std::fill_n(logits.begin() + 2 * stride, cols, -INFINITY);
    logits[3 * stride + cols - 1] = NAN;
    logits[4 * stride] = INFINITY;
    for (int i = 0; i < cols; i += 2) logits[5 * stride + i] = -INFINITY;
    const std::vector<float> temperatures = {1, 0.7f, 1, 0.7f, 2, 1.3f};
    const OnDevice<float> on_device(logits), at(temperatures),
        tops(std::vector<float>(rows * segments, NAN));
    const OnDevice<double> masses(std::vector<double>(rows * segments, -1)),
        scaled(std::vector<double>(rows * segments, -1));
    SegmentMasses({on_device.get(), rows, cols, stride}, at.get(), tops.get(), masses.get(),
                  scaled.get(), nullptr);
    const std::vector<float> found_tops = tops.Get();
    const std::vector<double> found = masses.Get(), found_scaled = scaled.Get();
    for (int i = 0; i < rows * segments; ++i) {
      const int r = i / segments, first = i % segments * kSegment;
      const float* segment = logits.data() + r * stride + first;
      const int n = std::min(kSegment, cols - first);
      float top = -INFINITY;
      for (int c = 0; c < n; ++c) top = std::fmax(top, segment[c]);
      double mass = 0, at_temperature = 0;
      for (int c = 0; c < n; ++c) {
        if (segment[c] == -INFINITY) continue;
        mass += std::exp(static_cast<double>(segment[c]) - top);
        at_temperature += std::exp((static_cast<double>(segment[c]) - top) / temperatures[r]);
      }
      EXPECT_EQ(found_tops[i], top) << "row " << r << " column " << first;
      ExpectSameMass(found[i], mass);
      ExpectSameMass(found_scaled[i], at_temperature);
      if (HasFailure()) return;
    }
  }
}

TEST_F(LogitsSummaryTest, NothingToDo) {
  TopLogits({}, 1, nullptr, nullptr, nullptr);
  SegmentMasses({}, nullptr, nullptr, nullptr, nullptr, nullptr);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

// ---- times

void TimeRows(int rows, int cols) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(int64_t{rows} * cols);
  for (float& x : numbers) x = 3 * normal(random);
  const int segments = (cols + kSegment - 1) / kSegment;
  const OnDevice<float> logits(numbers), values(std::vector<float>(rows * 256)),
      temperatures(std::vector<float>(rows, 0.7f)),
      tops(std::vector<float>(rows * segments, 0.0f));
  const OnDevice<double> masses(std::vector<double>(rows * segments, 0.0)),
      scaled(std::vector<double>(rows * segments, 0.0));
  const OnDevice<int32_t> ids(std::vector<int32_t>(rows * 256));
  const F32Rows all = {logits.get(), rows, cols, cols};
  const double top = MedianOf(10, [&](int, cudaStream_t stream) {
    TopLogits(all, 256, values.get(), ids.get(), stream);
  });
  const double mass = MedianOf(10, [&](int, cudaStream_t stream) {
    SegmentMasses(all, temperatures.get(), tops.get(), masses.get(), scaled.get(), stream);
  });
  std::printf("rows %2d cols %6d: top 256 %6.2f us, masses %6.2f us, floor %.2f\n", rows, cols, top,
              mass, 4.0 * rows * cols / 3.0e6);
}

void TimeAll() {
  for (const int rows : {1, 32, 64}) {
    for (const int cols : {32000, 151936}) TimeRows(rows, cols);
  }
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
