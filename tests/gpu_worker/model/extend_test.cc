#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "gpu_worker/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/all_rows.h"
#include "tests/gpu_worker/tiny_model.h"

namespace tessera {
namespace {

class ExtendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = TestFolder("long");
    WriteTinyModel(absl::StrReplaceAll(TinyLlamaConfig(), {{"512", "2048"}}), folder);
    auto decoder = Decoder::Load(folder, 0, ops_.get());
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = *std::move(decoder);
    for (uint32_t i = 0; i < 700; ++i) ids_.push_back(3 + i * 31 % 90);
  }

  const std::unique_ptr<Ops> ops_ = MakeCpuOps(2);
  std::unique_ptr<Decoder> decoder_;
  std::vector<uint32_t> ids_;  // more than a block of rows
  std::atomic<bool> cancelled_ = false;
};

TEST_F(ExtendTest, ShowsEveryRowOnceAndInOrder) {
  const KvMemory kv(decoder_->config(), 700);
  const Activations all = AllRows(*decoder_, ids_);
  int64_t shown = 0;
  const auto last = decoder_->ExtendShowing(kv, ids_, 0, cancelled_, [&](int64_t first, Matrix h) {
    EXPECT_EQ(first, shown);
    EXPECT_LE(h.rows, Decoder::kRowBlock);
    for (int64_t r = 0; r < h.rows; ++r) {
      for (int64_t i = 0; i < h.cols; ++i) {
        EXPECT_NEAR(h.Row(r)[i], all->Row(first + r)[i], 2e-3) << first + r;
      }
    }
    shown += h.rows;
    return absl::OkStatus();
  });
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(shown, 700);
  const KvMemory other(decoder_->config(), 700);
  const auto plain = decoder_->Extend(other, ids_, 0, cancelled_);
  ASSERT_TRUE(plain.ok());
  for (int64_t i = 0; i < (*last)->cols; ++i) {
    EXPECT_NEAR((*last)->data[i], (*plain)->data[i], 2e-3);
  }
}

TEST_F(ExtendTest, AnErrorOrACancellationEndsIt) {
  const KvMemory kv(decoder_->config(), 700);
  int blocks = 0;
  auto fail = [&](int64_t, Matrix) {
    ++blocks;
    return absl::AbortedError("enough");
  };
  EXPECT_EQ(decoder_->ExtendShowing(kv, ids_, 0, cancelled_, fail).status().code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(blocks, 1);
  auto cancel = [&](int64_t, Matrix) {
    cancelled_ = true;
    return absl::OkStatus();
  };
  EXPECT_EQ(decoder_->ExtendShowing(kv, ids_, 0, cancelled_, cancel).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace tessera
