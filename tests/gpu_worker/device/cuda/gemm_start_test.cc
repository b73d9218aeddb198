// What a start measures of products, and what products do with it afterwards.
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/device/cuda/gemm.h"
#include "gpu_worker/device/cuda/gemm_prepare.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/device/cuda/ops_pair.h"

namespace tessera::cuda {
namespace {

constexpr int64_t kN = 384, kK = 512, kMostRows = 700;
constexpr GemmProduct kAdded = {.n = kN, .k = kK, .to_float = true, .accumulate = true};
constexpr GemmProduct kPlain = {.n = kN, .k = kK, .to_float = true};

class GemmStartTest : public OpsPairTest {
 protected:
  void SetUp() override {
    OpsPairTest::SetUp();
    if (IsSkipped()) return;
    folder_ = testing::TempDir() + "gemm_start";
    std::filesystem::remove_all(folder_);
    x_ = std::make_unique<Both>(memory(), kMostRows, kK, Random(kMostRows * kK, 1));
    w_ = std::make_unique<Shared>(memory(), Random(kN * kK, 2), DType::kBf16);
  }

  PreparedGemms Start(Gemm& gemm) const {
    const std::vector<GemmNeed> needs = {{kAdded, 300}, {kPlain, 500}};
    PreparedGemms prepared = PrepareGemms(
        gemm.platform(), needs, folder_,
        [&](const GemmProduct& product, int64_t rows) { return gemm.Measure(product, rows); });
    gemm.Use(prepared.choices);
    return prepared;
  }

  // x w^T of so many rows, added to ones or not.
  Floats Product(Gemm& gemm, int64_t rows, bool accumulate) const {
    const Both out(memory(), rows, kN, Floats(rows * kN, 1), DType::kF32);
    const auto* const w = static_cast<const __nv_bfloat16*>(w_->CudaWeight(0, kN, kK).data);
    const Matrix x = x_->cuda().Slice(0, rows), to = out.cuda();
    memory().Synchronize();
    gemm.Run(Bf16Rows{static_cast<__nv_bfloat16*>(x.memory), rows, kK, x.step()}, w, kN, nullptr,
             accumulate, F32Rows{static_cast<float*>(to.memory), rows, kN, to.step()}, nullptr);
    cudaDeviceSynchronize();
    const Floats got = out.CudaValues();
    cpu().MatMul(x_->cpu().Slice(0, rows), w_->CpuWeight(0, kN, kK), {}, accumulate, out.cpu());
    ExpectClose("Gemm", got, out.CpuValues(), kSumsOfFloats);
    return got;
  }

  std::string folder_;
  std::unique_ptr<Both> x_;
  std::unique_ptr<Shared> w_;
};

TEST_F(GemmStartTest, ASecondStartMeasuresNothingAndGivesTheSameBits) {
  Gemm first, second, none;
  const PreparedGemms measured = Start(first);
  EXPECT_EQ(measured.left_out, 0);
  EXPECT_EQ(first.measurements(), measured.measured);
  EXPECT_GT(measured.measured, 0);
  EXPECT_EQ(Start(second).loaded, measured.measured);
  for (const int64_t rows : {65, 128, 129, 300, 301, 500, 700}) {
    for (const bool accumulate : {false, true}) {
      ExpectSame("a second start's product", Product(second, rows, accumulate),
                 Product(first, rows, accumulate));
      Product(none, rows, accumulate);
    }
  }
  // Products were made of more rows than were measured, and by one that nobody prepared.
  EXPECT_EQ(first.measurements(), measured.measured);
  EXPECT_EQ(second.measurements(), 0);
  EXPECT_EQ(none.measurements(), 0);
}

TEST_F(GemmStartTest, AnAlgorithmThatDoesNotFitIsNotTaken) {
  Gemm gemm;
  GemmChoice foreign;
  foreign.algorithm.fill(0x00ffffff00ffffff);
  GemmChoices choices;
  choices.Set(kAdded, 512, foreign);
  gemm.Use(choices);
  Product(gemm, 200, /*accumulate=*/true);
}

TEST_F(GemmStartTest, ADeviceIsPreparedThroughItsOperations) {
  const std::vector<ProductShape> products = {
      {.inner = kK, .cols = kN, .accumulate = true, .most_rows = kMostRows},
      {.inner = kK, .cols = kN, .out = DType::kBf16, .bias = true, .most_rows = 100},
      {.inner = kK, .cols = kN, .most_rows = 64}};  // too few to choose for
  cuda().Prepare(products, folder_);
  const std::filesystem::directory_iterator files(folder_), end;
  ASSERT_EQ(std::distance(files, end), 1);
  const Both out(memory(), kMostRows, kN, Floats(kMostRows * kN, 1), DType::kF32);
  cpu().MatMul(x_->cpu(), w_->CpuWeight(0, kN, kK), {}, true, out.cpu());
  cuda().MatMul(x_->cuda(), w_->CudaWeight(0, kN, kK), {}, true, out.cuda());
  ExpectClose("MatMul", out.CudaValues(), out.CpuValues(), kSumsOfFloats);
  cuda().Prepare({}, "");
}

}  // namespace
}  // namespace tessera::cuda
