#include "gpu_worker/device/cpu/parallel.h"

#include <atomic>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(ParallelTest, RunsEveryTaskOnceInManyRounds) {
  for (int threads : {1, 2, 5}) {
    Parallel parallel(threads);
    EXPECT_EQ(parallel.threads(), threads);
    for (int round = 0; round < 500; ++round) {
      std::vector<std::atomic<int>> runs(round % 40);
      parallel.For(round % 40, [&](int64_t i) { ++runs[i]; });
      for (const std::atomic<int>& n : runs) ASSERT_EQ(n, 1);
    }
  }
}

TEST(ParallelTest, RangesCoverTheWholeWithoutOverlap) {
  Parallel parallel(3);
  std::vector<int> touched(101, 0);
  parallel.ForRanges(101, 7, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) ++touched[i];
  });
  EXPECT_EQ(touched, std::vector<int>(101, 1));
}

}  // namespace
}  // namespace tessera
