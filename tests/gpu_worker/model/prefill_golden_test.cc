// The default model's full prefill against an independent PyTorch run: tests/golden/make_golden.py.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <vector>

#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/golden/golden.h"
#include "tests/gpu_worker/all_rows.h"
#include "tests/gpu_worker/test_device.h"

namespace tessera {
namespace {

double LogSum(const float* logits, int64_t n) {
  const float top = *std::max_element(logits, logits + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i] - top));
  return std::log(sum) + top;
}

// KL over the golden row's likeliest tokens and one bucket for all others.
double KlOfRow(const TopLogits& golden, float golden_log_sum, const float* logits, int64_t vocab) {
  const double log_sum = LogSum(logits, vocab);
  double kl = 0, rest_p = 1, rest_q = 1;
  for (size_t i = 0; i < golden.ids.size(); ++i) {
    const double lp = golden.logits[i] - golden_log_sum, lq = logits[golden.ids[i]] - log_sum;
    kl += std::exp(lp) * (lp - lq);
    rest_p -= std::exp(lp);
    rest_q -= std::exp(lq);
  }
  if (rest_p > 1e-6 && rest_q > 1e-6) kl += rest_p * std::log(rest_p / rest_q);
  return kl;
}

TEST(PrefillGoldenTest, AgreesOnRealParagraphs) {
  const std::string folder = ModelFolder("smollm2-135m-instruct");
  if (folder.empty()) GTEST_SKIP() << "the default model is not in $TESSERA_MODELS";
  const std::unique_ptr<Ops> ops = TestDevice(0);
  const auto decoder = Decoder::Load(folder, 1024, ops.get());
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  const std::vector<GoldenPrefill> paragraphs = ReadGoldenPrefill();
  ASSERT_EQ(paragraphs.size(), 20u);
  int64_t rows = 0, same = 0;
  double kl = 0;
  for (const GoldenPrefill& golden : paragraphs) {
    const auto n = static_cast<int64_t>(golden.ids.size());
    const Activations h = AllRows(**decoder, golden.ids);
    const Activations logits = (*decoder)->Logits(h);
    for (int64_t r = 0; r < n; ++r, ++rows) {
      const float* row = logits->Row(r);
      same += std::max_element(row, row + logits->cols) - row == golden.rows[r].ids[0];
      kl += KlOfRow(golden.rows[r], golden.log_sum[r], row, logits->cols);
    }
  }
  std::cout << "rows " << rows << " same top-1 " << static_cast<double>(same) / rows << " mean KL "
            << kl / rows << " device " << ops->name() << "\n";
  // Where activations are bf16 too, the reference's own dtype of weights is all that is left of it.
  const bool narrow = (*decoder)->memory().activation_type() == DType::kBf16;
  EXPECT_GE(static_cast<double>(same), (narrow ? 0.97 : 0.99) * static_cast<double>(rows));
  EXPECT_LT(kl / static_cast<double>(rows), narrow ? 5e-3 : 1e-3);
}

}  // namespace
}  // namespace tessera
