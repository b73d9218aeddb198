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
  const auto last = decoder_->Extend(kv, ids_, 0, cancelled_, [&](int64_t first, Matrix h) {
    EXPECT_EQ(first, shown);
    EXPECT_LE(h.rows, decoder_->memory().row_block());
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
  // One row alone is not rounded for its products; many are, where these are made from bf16.
  const float close = ops_->name() == "cpu-bf16" ? 0.05f : 2e-3f;
  for (int64_t i = 0; i < (*last)->cols; ++i) {
    EXPECT_NEAR((*last)->data()[i], (*plain)->data()[i], close);
  }
}

TEST_F(ExtendTest, AnErrorOrACancellationEndsIt) {
  const KvMemory kv(decoder_->config(), 700);
  int blocks = 0;
  auto fail = [&](int64_t, Matrix) {
    ++blocks;
    return absl::AbortedError("enough");
  };
  EXPECT_EQ(decoder_->Extend(kv, ids_, 0, cancelled_, fail).status().code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(blocks, 1);
  auto cancel = [&](int64_t, Matrix) {
    cancelled_ = true;
    return absl::OkStatus();
  };
  EXPECT_EQ(decoder_->Extend(kv, ids_, 0, cancelled_, cancel).status().code(),
            absl::StatusCode::kCancelled);
}

TEST_F(ExtendTest, RowsOfManyRequestsHaveTheBitsOfEachAlone) {
  const std::vector<size_t> lengths = {1, 9, 300, 17, 640};
  std::vector<KvMemory> together, alone;
  std::vector<DecodeRow> rows;
  for (const size_t length : lengths) {
    for (std::vector<KvMemory>* memories : {&together, &alone}) {
      memories->emplace_back(decoder_->config(), length + 3);
      ASSERT_TRUE(
          decoder_->Extend(memories->back(), absl::MakeConstSpan(ids_).first(length), 0, cancelled_)
              .ok());
    }
  }
  for (uint32_t step = 0; step < 3; ++step) {
    rows.clear();
    for (size_t i = 0; i < lengths.size(); ++i) {
      rows.push_back({&together[i], ids_[7 * i + step], static_cast<int64_t>(lengths[i] + step)});
    }
    const Activations logits = decoder_->DecodeRows(rows);
    for (size_t i = 0; i < lengths.size(); ++i) {
      const auto last = decoder_->Extend(alone[i], {rows[i].id}, rows[i].position, cancelled_);
      ASSERT_TRUE(last.ok());
      const Activations expected = decoder_->Logits(*last);
      for (int64_t n = 0; n < expected->cols; ++n) {
        ASSERT_EQ(logits->Row(i)[n], expected->data()[n]) << "row " << i << " step " << step;
      }
    }
  }
}

TEST_F(ExtendTest, ALayerIsAStepAndRowsOfOthersMayRunBetweenTwo) {
  const KvMemory other(decoder_->config(), 700), kv(decoder_->config(), 700),
      undisturbed(decoder_->config(), 700);
  ASSERT_TRUE(decoder_->Extend(other, absl::MakeConstSpan(ids_).first(5), 0, cancelled_).ok());
  const auto expected = decoder_->Extend(undisturbed, ids_, 0, cancelled_);
  ASSERT_TRUE(expected.ok());
  int64_t steps = 1;
  auto extending = decoder_->Extending(kv, ids_, 0);
  while (extending.Step() != StepState::kDone) {
    decoder_->DecodeRows({{&other, 7, 4 + steps}});
    ++steps;
  }
  const auto last = extending.TakeResult();
  ASSERT_TRUE(last.ok());
  EXPECT_EQ(steps, 2 * decoder_->config().layers);  // two blocks of rows
  for (int64_t i = 0; i < (*last)->cols; ++i) EXPECT_EQ((*last)->data()[i], (*expected)->data()[i]);
}

// Rows that a request has generated before are computed again several at a time.
TEST_F(ExtendTest, RowsOfOneMemoryTogetherGiveTheBitsThatTheyGiveOneByOne) {
  const KvMemory together(decoder_->config(), 700), alone(decoder_->config(), 700);
  for (const KvMemory* kv : {&together, &alone}) {
    ASSERT_TRUE(decoder_->Extend(*kv, absl::MakeConstSpan(ids_).first(90), 0, cancelled_).ok());
  }
  std::vector<DecodeRow> rows;
  Activations expected;
  for (int64_t i = 0; i < 7; ++i) {
    expected = decoder_->DecodeRows({{&alone, ids_[90 + i], 90 + i}});
    rows.push_back({&together, ids_[90 + i], 90 + i, /*wants_logits=*/i == 6});
  }
  const Activations logits = decoder_->DecodeRows(rows);
  ASSERT_EQ(logits->rows, 1);
  for (int64_t i = 0; i < logits->cols; ++i) EXPECT_EQ(logits->data()[i], expected->data()[i]);
}

TEST_F(ExtendTest, MemoryInScatteredBlocksGivesTheSameBits) {
  KvPool pool(decoder_->config(), 24);
  const KvMemory plain(decoder_->config(), 700);
  const auto expected = decoder_->Extend(plain, ids_, 0, cancelled_);
  KvMemory holes[3] = {KvMemory(&pool), KvMemory(&pool), KvMemory(&pool)};
  for (int64_t blocks = 1; blocks <= 6; ++blocks) {
    for (KvMemory& hole : holes) ASSERT_TRUE(hole.Grow(blocks * KvPool::kBlockSlots));
  }
  holes[1] = KvMemory(&pool);
  KvMemory scattered(&pool);
  ASSERT_TRUE(scattered.Grow(700));
  const LayerKv layer = scattered.Layer(0);
  EXPECT_LT(layer.Run(0, 700), 700);
  const auto last = decoder_->Extend(scattered, ids_, 0, cancelled_);
  ASSERT_TRUE(last.ok() && expected.ok());
  for (int64_t i = 0; i < (*last)->cols; ++i) EXPECT_EQ((*last)->data()[i], (*expected)->data()[i]);
  const Activations a = decoder_->DecodeRows({{&scattered, 5, 699}});
  const Activations b = decoder_->DecodeRows({{&plain, 5, 699}});
  for (int64_t i = 0; i < a->cols; ++i) EXPECT_EQ(a->data()[i], b->data()[i]);
}

}  // namespace
}  // namespace tessera
