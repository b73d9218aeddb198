#include "gateway/router/rendezvous.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr size_t kSlack = 8;

// Segments of 100 tokens each; equal seeds are equal segments.
worker::v1::GenerateRequest Request(std::initializer_list<uint32_t> seeds) {
  worker::v1::GenerateRequest request;
  for (const uint32_t seed : seeds) {
    worker::v1::Segment* const segment = request.add_segments();
    for (uint32_t i = 0; i < 100; ++i) segment->add_token_ids(seed * 1000 + i);
  }
  return request;
}

std::vector<WorkerLoad> Workers(size_t count) {
  std::vector<WorkerLoad> workers;
  for (size_t i = 0; i < count; ++i) workers.push_back({absl::StrCat("10.0.0.", i, ":7601"), 0});
  return workers;
}

TEST(RendezvousTest, OrdersEveryWorkerOnce) {
  const auto order = RankWorkers(Request({1, 2, 3}), Workers(5), kSlack);
  EXPECT_EQ(std::set<size_t>(order.begin(), order.end()), (std::set<size_t>{0, 1, 2, 3, 4}));
  EXPECT_TRUE(RankWorkers(Request({1}), {}, kSlack).empty());
}

TEST(RendezvousTest, TheSuffixDoesNotMoveARequest) {
  const auto workers = Workers(7);
  for (uint32_t chunk = 0; chunk < 50; ++chunk) {
    EXPECT_EQ(RankWorkers(Request({chunk, 1001}), workers, kSlack)[0],
              RankWorkers(Request({chunk, 1002}), workers, kSlack)[0]);
  }
}

TEST(RendezvousTest, ChunksSpreadOverWorkers) {
  const auto workers = Workers(4);
  std::vector<int> wins(4, 0);
  for (uint32_t chunk = 0; chunk < 400; ++chunk) {
    ++wins[RankWorkers(Request({chunk, 9999}), workers, kSlack)[0]];
  }
  for (const int count : wins) EXPECT_GT(count, 50);
}

TEST(RendezvousTest, FewChunksMoveWhenAWorkerLeaves) {
  const auto five = Workers(5);
  const auto four = Workers(4);
  for (uint32_t chunk = 0; chunk < 200; ++chunk) {
    const size_t before = RankWorkers(Request({chunk, 9999}), five, kSlack)[0];
    const size_t after = RankWorkers(Request({chunk, 9999}), four, kSlack)[0];
    if (before != 4) {
      EXPECT_EQ(before, after);
    }
  }
}

TEST(RendezvousTest, ABusyHomeIsPassedOver) {
  auto workers = Workers(3);
  const size_t home = RankWorkers(Request({5, 6}), workers, kSlack)[0];
  workers[home].in_flight = kSlack - 1;
  EXPECT_EQ(RankWorkers(Request({5, 6}), workers, kSlack)[0], home);
  workers[home].in_flight = kSlack;
  EXPECT_EQ(RankWorkers(Request({5, 6}), workers, kSlack).back(), home);
}

}  // namespace
}  // namespace tessera
