#include "gateway/router/rendezvous.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/chunk_hash.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr size_t kSlack = 8;

// A chunk of 100 tokens that nobody is known to have.
ChunkVote Chunk(uint32_t seed, std::vector<size_t> holders = {}) {
  const std::vector<uint32_t> ids(100, seed);
  return {.hash = ChunkHash("", ids), .tokens = 100, .holders = std::move(holders)};
}

std::vector<WorkerLoad> Workers(size_t count) {
  std::vector<WorkerLoad> workers;
  for (size_t i = 0; i < count; ++i) workers.push_back({absl::StrCat("10.0.0.", i, ":7601"), 0});
  return workers;
}

std::vector<size_t> Order(const std::vector<ChunkVote>& chunks,
                          const std::vector<WorkerLoad>& workers) {
  std::vector<size_t> order;
  for (const RankedWorker& ranked : RankWorkers(chunks, workers, kSlack)) {
    order.push_back(ranked.index);
  }
  return order;
}

size_t First(const std::vector<ChunkVote>& chunks, const std::vector<WorkerLoad>& workers) {
  return Order(chunks, workers).front();
}

TEST(RendezvousTest, OrdersEveryWorkerOnce) {
  const auto order = Order({Chunk(1), Chunk(2), Chunk(3)}, Workers(5));
  EXPECT_EQ(order.size(), 5u);
  EXPECT_EQ(std::set<size_t>(order.begin(), order.end()), (std::set<size_t>{0, 1, 2, 3, 4}));
  EXPECT_TRUE(Order({Chunk(1)}, {}).empty());
  EXPECT_EQ(Order({}, Workers(2)), (std::vector<size_t>{0, 1}));
}

TEST(RendezvousTest, ChunksSpreadOverWorkers) {
  const auto workers = Workers(4);
  std::vector<int> wins(4, 0);
  for (uint32_t chunk = 0; chunk < 400; ++chunk) ++wins[First({Chunk(chunk)}, workers)];
  for (const int count : wins) EXPECT_GT(count, 50);
}

TEST(RendezvousTest, FewChunksMoveWhenAWorkerLeaves) {
  const auto five = Workers(5);
  const auto four = Workers(4);
  for (uint32_t chunk = 0; chunk < 200; ++chunk) {
    const size_t before = First({Chunk(chunk)}, five);
    const size_t after = First({Chunk(chunk)}, four);
    if (before != 4) {
      EXPECT_EQ(before, after);
    }
  }
}

TEST(RendezvousTest, TheOrderOfWorkersDoesNotMatter) {
  auto workers = Workers(6);
  for (uint32_t chunk = 0; chunk < 50; ++chunk) {
    const std::string home = workers[First({Chunk(chunk)}, workers)].address;
    std::rotate(workers.begin(), workers.begin() + 1, workers.end());
    EXPECT_EQ(workers[First({Chunk(chunk)}, workers)].address, home);
  }
}

TEST(RendezvousTest, ABusyHomeIsPassedOver) {
  auto workers = Workers(3);
  const size_t home = First({Chunk(5)}, workers);
  workers[home].in_flight = kSlack - 1;
  EXPECT_EQ(First({Chunk(5)}, workers), home);
  workers[home].in_flight = kSlack;
  EXPECT_EQ(Order({Chunk(5)}, workers).back(), home);
}

TEST(RendezvousTest, WhoHasTheChunkIsPreferredToItsHash) {
  const auto workers = Workers(3);
  for (uint32_t chunk = 0; chunk < 20; ++chunk) {
    for (size_t holder = 0; holder < 3; ++holder) {
      EXPECT_EQ(First({Chunk(chunk, {holder})}, workers), holder);
      // Half of the tokens in memory are not outvoted by a guess.
      EXPECT_EQ(First({Chunk(chunk, {holder}), Chunk(chunk + 100)}, workers), holder);
    }
  }
}

TEST(RendezvousTest, AShortKnownLeadDoesNotDrawEverything) {
  const auto workers = Workers(4);
  ChunkVote lead = Chunk(1, {0});
  lead.tokens = 20;
  std::set<size_t> homes;
  for (uint32_t chunk = 2; chunk < 40; ++chunk) homes.insert(First({lead, Chunk(chunk)}, workers));
  EXPECT_EQ(homes.size(), 4u);
}

TEST(RendezvousTest, AmongHoldersTheIdlestWins) {
  auto workers = Workers(3);
  workers[0].in_flight = 2;
  workers[1].in_flight = 1;
  EXPECT_EQ(First({Chunk(1, {0, 1})}, workers), 1u);
}

TEST(RendezvousTest, WorkersToAvoidComeLast) {
  auto workers = Workers(3);
  workers[2].avoid = true;
  workers[0].in_flight = workers[1].in_flight = 100;
  EXPECT_EQ(Order({Chunk(1, {2})}, workers).back(), 2u);
  for (WorkerLoad& worker : workers) worker.avoid = true;
  EXPECT_EQ(First({Chunk(1, {2})}, workers), 2u);
}

TEST(RendezvousTest, SaysWhy) {
  const auto ranked = RankWorkers(std::vector{Chunk(1, {2})}, Workers(4), kSlack);
  EXPECT_EQ(ranked[0].by, RoutedBy::kAffinity);
  EXPECT_EQ(ranked[1].by, RoutedBy::kLoad);
  EXPECT_EQ(RankWorkers(std::vector{Chunk(1)}, Workers(4), kSlack)[0].by, RoutedBy::kHash);
}

}  // namespace
}  // namespace tessera
