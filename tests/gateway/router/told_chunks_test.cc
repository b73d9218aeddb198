// Routing by what workers tell of their memory.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/chunk_hash.h"
#include "tests/gateway/router/pool_fixture.h"

namespace tessera {
namespace {

uint64_t HashOf(uint32_t seed) {
  const v1::GenerateRequest request = ChunksRequest({seed});
  const auto& ids = request.segments(0).token_ids();
  return ChunkHash("", std::vector<uint32_t>(ids.begin(), ids.end()));
}

class ToldChunksTest : public TwoWorkersFixture {
 protected:
  void SetUp() override {
    TwoWorkersFixture::SetUp();
    StartTwo();
    FindHome();
    home_->Set({.tells_chunks = true});
    other_->Set({.tells_chunks = true});
  }

  void StartTwo() { TwoWorkersFixture::StartTwo({.poll_up = absl::Milliseconds(20)}); }
  void AwaitTold() {
    Await([&] {
      const std::vector<WorkerState> states = pool_->States();
      return states[0].tells_chunks && states[1].tells_chunks;
    });
  }
};

TEST_F(ToldChunksTest, AChunkGoesToWhoHasItThoughThisGatewayNeverSentIt) {
  other_->chunks().Add(HashOf(1));
  StartTwo();
  AwaitTold();
  EXPECT_FALSE(GoesHome(ChunksRequest({1})));
  EXPECT_EQ(pool_->Totals().by_affinity, 1u);
}

TEST_F(ToldChunksTest, ChangesCome) {
  StartTwo();
  AwaitTold();
  EXPECT_TRUE(GoesHome(ChunksRequest({1})));
  other_->chunks().Add(HashOf(1));
  Await([&] { return !GoesHome(ChunksRequest({1})); });
  other_->chunks().Remove(HashOf(1));
  Await([&] { return GoesHome(ChunksRequest({1})); });
}

TEST_F(ToldChunksTest, ItsWordCountsMoreThanAGuess) {
  StartTwo();
  AwaitTold();
  // Served there, and not kept.
  home_->Set(
      {.fail_after = 0, .failure = absl::ResourceExhaustedError("full"), .tells_chunks = true});
  const int before = other_->calls();
  ASSERT_TRUE(Run(ChunksRequest({1})).ok());
  EXPECT_EQ(other_->calls(), before + 1);
  home_->Set({});
  EXPECT_TRUE(GoesHome(ChunksRequest({1})));
  EXPECT_EQ(pool_->Totals().by_affinity, 0u);
}

TEST_F(ToldChunksTest, MoreThanOneMessageHolds) {
  for (uint64_t hash = 0; hash < 10'000; ++hash) other_->chunks().Add(hash << 32);
  other_->chunks().Add(HashOf(1));
  StartTwo();
  Await([&] { return !GoesHome(ChunksRequest({1})); });
}

TEST_F(ToldChunksTest, AnotherProcessAtTheAddressTellsAnew) {
  other_->chunks().Add(HashOf(1));
  StartTwo();
  AwaitTold();
  EXPECT_FALSE(GoesHome(ChunksRequest({1})));
  const int port = other_->port();
  other_.reset();
  AwaitReadyWorkers(1);
  other_ = Stub("m", port, {.tells_chunks = true});
  other_->chunks().Add(HashOf(2));
  AwaitReadyWorkers(2);
  AwaitTold();
  EXPECT_TRUE(GoesHome(ChunksRequest({1})));
  EXPECT_FALSE(GoesHome(ChunksRequest({2})));
}

TEST_F(ToldChunksTest, WhoDoesNotTellIsGuessed) {
  home_->Set({});
  other_->Set({});
  StartTwo();
  home_->Set({.fail_after = 0, .failure = absl::ResourceExhaustedError("full")});
  ASSERT_TRUE(Run(ChunksRequest({1})).ok());
  home_->Set({});
  EXPECT_FALSE(GoesHome(ChunksRequest({1})));
  for (const WorkerState& state : pool_->States()) EXPECT_FALSE(state.tells_chunks);
}

TEST_F(ToldChunksTest, TheWatchEndsWithTheGateway) {
  other_->chunks().Add(HashOf(1));
  StartTwo();
  AwaitTold();
  pool_.reset();
  other_->chunks().Add(HashOf(2));  // nobody is told
  StartTwo();
  AwaitTold();
  EXPECT_FALSE(GoesHome(ChunksRequest({2})));
}

}  // namespace
}  // namespace tessera
