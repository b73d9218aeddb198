// What a worker does when it starts, on a device whose memory is not the program's: the products
// that it names, the self-test and the measurement of costs.
#include <cmath>
#include <memory>

#include "gpu_worker/blend/cost_measure.h"
#include "gpu_worker/blend/self_test.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/blend/tiny_blend.h"
#include "tests/gpu_worker/far_device.h"

namespace tessera {
namespace {

TEST(FarStartTest, SelfTestAndCosts) {
  FarMemory memory;
  {
    FarOps ops(&memory);
    const std::unique_ptr<Decoder> decoder = TinyWorker::LoadTiny(&ops);
    decoder->Prepare("");
    const auto report = RunSelfTest(*decoder, TinyWorker::SmallPieces());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_LT(report->full_blend_kl, 1e-3);
    const CostCoefficients costs = MeasureCosts(*decoder);
    for (const double seconds : {costs.pair, costs.scored_pair, costs.row, costs.placed_row,
                                 costs.correction, costs.logits}) {
      EXPECT_TRUE(std::isfinite(seconds) && seconds > 0) << seconds;
    }
    // All of many rows had been named; see FarOps.
    EXPECT_GT(ops.named_products(), 4);
  }
}

}  // namespace
}  // namespace tessera
