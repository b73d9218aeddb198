#include "gateway/router/affinity.h"

#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

using Workers = std::vector<uint32_t>;

TEST(AffinityTableTest, TheLastHolderComesFirst) {
  AffinityTable table(10);
  EXPECT_EQ(table.Holders(7), Workers());
  table.Learn(7, 1);
  table.Learn(7, 2);
  EXPECT_EQ(table.Holders(7), (Workers{2, 1}));
  table.Learn(7, 1);
  EXPECT_EQ(table.Holders(7), (Workers{1, 2}));
  EXPECT_EQ(table.Holders(8), Workers());
}

TEST(AffinityTableTest, TheChunkThatWasLearntLongestAgoGoes) {
  AffinityTable table(2);
  table.Learn(1, 0);
  table.Learn(2, 0);
  table.Learn(1, 3);
  table.Learn(3, 0);
  EXPECT_EQ(table.size(), 2u);
  EXPECT_EQ(table.Holders(1), (Workers{3, 0}));
  EXPECT_EQ(table.Holders(2), Workers());
  EXPECT_EQ(table.Holders(3), (Workers{0}));
}

TEST(AffinityTableTest, OnlyTheLastHoldersAreKnown) {
  AffinityTable table(2);
  for (uint32_t worker = 0; worker < 100; ++worker) table.Learn(1, worker);
  const Workers holders = table.Holders(1);
  ASSERT_EQ(holders.size(), AffinityTable::kMaxHolders);
  EXPECT_EQ(holders.front(), 99u);
  EXPECT_EQ(holders.back(), 100 - AffinityTable::kMaxHolders);
}

TEST(AffinityTableTest, AWorkerForgetsOneChunk) {
  AffinityTable table(10);
  table.Learn(1, 0);
  table.Learn(1, 1);
  table.Learn(2, 0);
  table.Forget(1, 0);
  table.Forget(3, 0);
  EXPECT_EQ(table.Holders(1), (Workers{1}));
  EXPECT_EQ(table.Holders(2), (Workers{0}));
  table.Forget(1, 1);
  EXPECT_EQ(table.size(), 1u);
}

TEST(AffinityTableTest, AWorkerForgetsAll) {
  AffinityTable table(10);
  table.Learn(1, 0);
  table.Learn(1, 1);
  table.Learn(2, 0);
  table.ForgetWorker(0);
  EXPECT_EQ(table.Holders(1), (Workers{1}));
  EXPECT_EQ(table.Holders(2), Workers());
  // Its next life learns anew, and only that.
  table.Learn(2, 0);
  EXPECT_EQ(table.Holders(2), (Workers{0}));
  EXPECT_EQ(table.Holders(1), (Workers{1}));
}

TEST(AffinityTableTest, WithoutRoomNothingIsKnown) {
  AffinityTable table(0);
  table.Learn(1, 0);
  table.Forget(1, 0);
  EXPECT_EQ(table.Holders(1), Workers());
  EXPECT_EQ(table.size(), 0u);
}

}  // namespace
}  // namespace tessera
