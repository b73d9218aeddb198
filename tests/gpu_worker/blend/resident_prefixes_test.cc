#include "gpu_worker/blend/resident_prefixes.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

constexpr int64_t kBlock = KvPool::kBlockSlots;
constexpr int64_t kPiece = 2 * kBlock;

class ResidentPrefixesTest : public TinyBlendTest {
 protected:
  void SetUp() override {
    TinyBlendTest::SetUp();
    BlendConfig config = TinyWorker::SmallPieces();
    config.tokens_per_piece = kPiece;
    worker_ = std::make_unique<TinyWorker>(client_.get(), config);
    pool_ = std::make_unique<KvPool>(worker_->decoder->config(), 40);
    prefixes_ = std::make_unique<ResidentPrefixes>(pool_.get(), kPiece);
  }
  void TearDown() override { prefixes_.reset(); }

  static BlendRequest Plain(const std::vector<uint32_t>& ids) {
    BlendRequest request = TinyRequest({ids});
    request.prefixes = true;
    request.store = false;
    return request;
  }

  // As a request runs: shares what is resident, and what it leaves may be shared.
  Prefilled Run(const BlendRequest& request) {
    const std::vector<ChunkKey> keys = worker_->blender->PrefixKeys(request);
    PromptMemory memory{KvMemory(pool_.get())};
    shared_ = prefixes_->Share(keys, &memory.kv);
    memory.resident_tokens = shared_ * kPiece;
    EXPECT_TRUE(memory.kv.Grow(request.Tokens() + 1));
    auto steps = worker_->blender->Prefilling(request, std::move(memory), worker_->never);
    while (steps.Step() != StepState::kDone) {
    }
    absl::StatusOr<Prefilled> done = steps.TakeResult();
    EXPECT_TRUE(done.ok()) << done.status();
    prefixes_->Add(keys, done->kv);
    return *std::move(done);
  }

  static std::vector<uint32_t> Join(std::vector<uint32_t> a, const std::vector<uint32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<ResidentPrefixes> prefixes_;
  int64_t shared_ = 0;  // pieces
};

TEST_F(ResidentPrefixesTest, TheSecondTurnSharesTheFirstAndGivesTheSameBits) {
  const std::vector<uint32_t> first = TinyTokens(1, 300), more = TinyTokens(2, 40);
  const Prefilled alone = worker_->Run(Plain(Join(first, more)));
  Run(Plain(first));
  EXPECT_EQ(shared_, 0);
  const Prefilled second = Run(Plain(Join(first, more)));
  EXPECT_EQ(shared_, 2) << "two pieces of 128 of 300 tokens";
  EXPECT_EQ(second.segments[0].cached_tokens, 2 * kPiece);
  EXPECT_EQ(second.segments[0].found, (std::vector<TierTokens>{{kWorkerTier, 2 * kPiece}}));
  EXPECT_EQ(second.logits, alone.logits);
}

TEST_F(ResidentPrefixesTest, TwoThatRunUseOneCopy) {
  const std::vector<uint32_t> ids = TinyTokens(1, 300);
  const Prefilled one = Run(Plain(Join(ids, {5})));
  const int64_t free = pool_->free_blocks();
  const Prefilled other = Run(Plain(Join(ids, {9})));
  EXPECT_EQ(free - pool_->free_blocks(), 1) << "301 tokens take five blocks, four are shared";
}

TEST_F(ResidentPrefixesTest, AnotherTextOrTenantSharesNothing) {
  const std::vector<uint32_t> ids = TinyTokens(1, 300);
  Run(Plain(ids));
  BlendRequest other = Plain(ids);
  other.salt = "another";
  Run(other);
  EXPECT_EQ(shared_, 0);
  std::vector<uint32_t> changed = ids;
  changed[kPiece] ^= 1;
  Run(Plain(changed));
  EXPECT_EQ(shared_, 1) << "the first piece alone is the same";
}

TEST_F(ResidentPrefixesTest, ALeadIsSharedByBlendsAndByFullPrefills) {
  const std::vector<uint32_t> lead = TinyTokens(1, 140);
  const BlendRequest blend = TinyRequest({lead, a_, b_, suffix_});
  const Prefilled alone = worker_->Run(blend);
  Run(Plain(Join(lead, c_)));
  EXPECT_EQ(shared_, 0);
  const Prefilled blended = Run(blend);
  EXPECT_EQ(shared_, 1);
  EXPECT_EQ(blended.logits, alone.logits);
  EXPECT_EQ(blended.picked, alone.picked);
  Run(TinyRequest({lead, c_, suffix_}, "hkvd_v"));
  EXPECT_EQ(shared_, 0) << "it computes the lead again, in place";
  const Prefilled again = Run(blend);
  EXPECT_EQ(again.logits, alone.logits);
}

TEST_F(ResidentPrefixesTest, TheLeastRecentlyUsedMakeRoomAndThoseInUseStay) {
  Run(Plain(TinyTokens(1, 260)));
  Run(Plain(TinyTokens(2, 260)));
  const Prefilled used = Run(Plain(TinyTokens(3, 260)));
  Run(Plain(TinyTokens(1, 260)));  // the second is now the oldest
  EXPECT_EQ(prefixes_->idle_blocks(), 8);
  const int64_t free = pool_->free_blocks();
  prefixes_->MakeRoom(free + 1);
  EXPECT_EQ(pool_->free_blocks(), free + 2) << "the last piece of the oldest";
  EXPECT_EQ(prefixes_->Count(worker_->blender->PrefixKeys(Plain(TinyTokens(2, 260)))), 1);
  prefixes_->MakeRoom(1000);
  EXPECT_EQ(prefixes_->idle_blocks(), 0);
  EXPECT_EQ(prefixes_->Count(worker_->blender->PrefixKeys(Plain(TinyTokens(1, 260)))), 0);
  EXPECT_EQ(prefixes_->Count(worker_->blender->PrefixKeys(Plain(TinyTokens(3, 260)))), 2);
  EXPECT_EQ(pool_->free_blocks(), 40 - 5);
}

}  // namespace
}  // namespace tessera
