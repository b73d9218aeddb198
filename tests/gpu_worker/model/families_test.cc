// Every family and RoPE kind against transformers, on small made-up models:
// tests/golden/make_families.py.
#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/golden/golden.h"
#include "tests/gpu_worker/all_rows.h"
#include "tests/gpu_worker/tiny_model.h"

namespace tessera {
namespace {

TEST(FamiliesTest, LogitsEqualTransformers) {
  const std::unique_ptr<Ops> ops = MakeCpuOps(2);
  // bf16 products round their inputs; f32 ones differ by the order of sums alone.
  const float tolerance = ops->name() == "cpu-bf16" ? 0.5f : 2e-3f;
  const std::vector<GoldenFamily> families = ReadGoldenFamilies();
  EXPECT_GE(families.size(), 7u);
  for (const GoldenFamily& golden : families) {
    SCOPED_TRACE(golden.name);
    const std::string folder = TestFolder("family");
    WriteTinyModel(golden.config, folder);
    auto decoder = Decoder::Load(folder, 0, ops.get());
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    const auto n = static_cast<int64_t>(golden.ids.size());
    const Activations h = AllRows(**decoder, golden.ids);
    const auto rows = static_cast<int64_t>(golden.logits.size());
    const Activations logits = (*decoder)->Logits(h->Slice(n - rows, rows));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < logits->cols; ++i) {
        ASSERT_NEAR(logits->Row(r)[i], golden.logits[r][i], tolerance)
            << "row " << r << " id " << i;
      }
    }
    // Prefill and a decode step for the last token give the same.
    const std::atomic<bool> never = false;
    const KvMemory stepwise((*decoder)->config(), n);
    const absl::Span<const uint32_t> ids = golden.ids;
    ASSERT_TRUE((*decoder)->Extend(stepwise, ids.first(n - 1), 0, never).ok());
    const auto last = (*decoder)->Extend(stepwise, ids.last(1), n - 1, never);
    ASSERT_TRUE(last.ok());
    const Activations again = (*decoder)->Logits(*last);
    for (int64_t i = 0; i < again->cols; ++i) {
      ASSERT_NEAR(again->data()[i], golden.logits.back()[i], tolerance) << "id " << i;
    }
  }
}

}  // namespace
}  // namespace tessera
