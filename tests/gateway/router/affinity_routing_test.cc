// Where a WorkerPool sends chunks that it knows.
#include <memory>
#include <utility>
#include <vector>

#include "tests/gateway/router/pool_fixture.h"

namespace tessera {
namespace {

class AffinityRoutingTest : public TwoWorkersFixture {
 protected:
  void SetUp() override {
    TwoWorkersFixture::SetUp();
    Restart({});
  }

  // `home_` is then the one that the hash of chunk 1 points to; nothing is known yet.
  void Restart(const WorkerPoolOptions& options) {
    StartTwo(options);
    FindHome();
    StartTwo(options);
  }

  // Has the other worker serve a request that would go to the home.
  void ServeAtOther(const v1::GenerateRequest& request) {
    home_->Set({.fail_after = 0, .failure = absl::ResourceExhaustedError("full")});
    ASSERT_TRUE(Run(request).ok());
    home_->Set({});
  }
};

TEST_F(AffinityRoutingTest, AChunkGoesToWhoServedIt) {
  ServeAtOther(ChunksRequest({1}));
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(GoesHome(ChunksRequest({1})));
  const RoutingTotals totals = pool_->Totals();
  EXPECT_EQ(totals.by_hash, 1u);
  EXPECT_EQ(totals.by_affinity, 3u);
  EXPECT_EQ(totals.retries, 1u);
}

TEST_F(AffinityRoutingTest, AChunkGoesToWhoComputedItAhead) {
  home_->Set({.prefill_failure = absl::ResourceExhaustedError("full")});
  ChunkAnswer answer;
  auto call = pool_->PrefillChunk(ChunkOf(1), Soon(), answer.Callback());
  ASSERT_TRUE(call.ok());
  ASSERT_TRUE(answer.Wait().ok());
  EXPECT_EQ(home_->prefills(), 1);
  EXPECT_EQ(other_->prefills(), 1);
  EXPECT_FALSE(GoesHome(ChunksRequest({1})));
}

TEST_F(AffinityRoutingTest, UnknownChunksAreComputedWhereGenerateWouldGo) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    ChunkAnswer answer;
    const int before = home_->prefills();
    auto call = pool_->PrefillChunk(ChunkOf(seed), Soon(), answer.Callback());
    ASSERT_TRUE(call.ok());
    ASSERT_TRUE(answer.Wait().ok());
    const bool at_home = home_->prefills() != before;
    Restart({});
    EXPECT_EQ(GoesHome(ChunksRequest({seed})), at_home) << seed;
  }
}

TEST_F(AffinityRoutingTest, SaltsAreOtherChunks) {
  ServeAtOther(ChunksRequest({1}));
  v1::GenerateRequest salted = ChunksRequest({1});
  salted.set_cache_salt("tenant");
  EXPECT_TRUE(Run(salted).ok());
  EXPECT_EQ(pool_->Totals().by_affinity, 0u);
}

TEST_F(AffinityRoutingTest, MostTokensDecide) {
  ServeAtOther(ChunksRequest({1, 2}));
  // Chunk 3 may point anywhere: it is the smaller part.
  for (uint32_t seed = 3; seed < 10; ++seed) {
    EXPECT_FALSE(GoesHome(ChunksRequest({1, seed, 2})));
  }
}

TEST_F(AffinityRoutingTest, AnotherProcessAtTheAddressKnowsNothing) {
  Restart({.poll_up = absl::Milliseconds(20)});
  ServeAtOther(ChunksRequest({1}));
  EXPECT_FALSE(GoesHome(ChunksRequest({1})));
  const int port = other_->port();
  other_.reset();
  AwaitReadyWorkers(1);
  other_ = Stub("m", port);
  AwaitReadyWorkers(2);
  EXPECT_TRUE(GoesHome(ChunksRequest({1})));
}

TEST_F(AffinityRoutingTest, ABusyHolderIsPassedOver) {
  Restart({.slack = 2});
  ServeAtOther(ChunksRequest({1}));
  other_->Set({.hold_after = 1});
  Listener first;
  Listener second;
  auto one = pool_->Generate(ChunksRequest({1}), Soon(), &first);
  auto two = pool_->Generate(ChunksRequest({1}), Soon(), &second);
  ASSERT_TRUE(one.ok() && two.ok());
  first.AwaitEvents(1);
  second.AwaitEvents(1);
  EXPECT_TRUE(GoesHome(ChunksRequest({1})));
  other_->Release();
  EXPECT_TRUE(first.Wait().ok());
  EXPECT_TRUE(second.Wait().ok());
}

TEST_F(AffinityRoutingTest, WithoutATableTheHashDecides) {
  Restart({.affinity_chunks = 0});
  ServeAtOther(ChunksRequest({1}));
  EXPECT_TRUE(GoesHome(ChunksRequest({1})));
}

TEST_F(AffinityRoutingTest, PromptsWithoutChunksTakeNoRoom) {
  Restart({.affinity_chunks = 1});
  ServeAtOther(ChunksRequest({1}));
  EXPECT_TRUE(Run(Request({1, 2, 3})).ok());
  EXPECT_FALSE(GoesHome(ChunksRequest({1})));
}

}  // namespace
}  // namespace tessera
