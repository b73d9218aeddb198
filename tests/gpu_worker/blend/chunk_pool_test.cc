#include "gpu_worker/blend/chunk_pool.h"

#include <algorithm>
#include <list>
#include <memory>
#include <random>
#include <utility>

#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera {
namespace {

using testing::TestKey;

ModelConfig SmallModel() {
  ModelConfig model;
  model.layers = 2;
  model.kv_heads = 1;
  model.head_dim = 8;
  return model;
}

constexpr int64_t kTokenBytes = 2 * 2 * 8 * 2;  // layers, K and V, head_dim, bf16

std::shared_ptr<const RawChunk> Chunk(int64_t tokens) {
  return std::make_shared<RawChunk>(SmallModel(), tokens, 16);
}

void Keep(ChunkPool& pool, uint32_t number, int64_t tokens) {
  pool.Keep(TestKey(number), number, Chunk(tokens));
}

TEST(ChunkPoolTest, KeepsWhatFitsAndEvictsTheLeastRecentlyUsed) {
  ChunkPool pool(100 * kTokenBytes);
  Keep(pool, 1, 40);
  Keep(pool, 2, 40);
  EXPECT_NE(pool.Find(TestKey(1)), nullptr);  // now 2 is the next to go
  Keep(pool, 3, 20);
  EXPECT_EQ(pool.stats().resident_bytes, 100 * kTokenBytes);
  EXPECT_EQ(pool.stats().evictions, 0u);
  Keep(pool, 4, 1);
  EXPECT_EQ(pool.Find(TestKey(2)), nullptr);
  EXPECT_NE(pool.Find(TestKey(1)), nullptr);
  EXPECT_NE(pool.Find(TestKey(3)), nullptr);
  EXPECT_NE(pool.Find(TestKey(4)), nullptr);
  Keep(pool, 5, 100);  // takes the place of all
  for (uint32_t number = 1; number < 5; ++number) EXPECT_EQ(pool.Find(TestKey(number)), nullptr);
  const ChunkPoolStats stats = pool.stats();
  EXPECT_EQ(stats.limit_bytes, 100 * kTokenBytes);
  EXPECT_EQ(stats.resident_bytes, 100 * kTokenBytes);
  EXPECT_EQ(stats.resident_chunks, 1);
  EXPECT_EQ(stats.hits, 4u);
  EXPECT_EQ(stats.hit_bytes, static_cast<uint64_t>((40 + 40 + 20 + 1) * kTokenBytes));
  EXPECT_EQ(stats.kept, 5u);
  EXPECT_EQ(stats.evictions, 4u);
}

TEST(ChunkPoolTest, WhatIsLargerThanTheLimitEvictsNothing) {
  ChunkPool pool(10 * kTokenBytes);
  Keep(pool, 1, 10);
  Keep(pool, 2, 11);
  EXPECT_EQ(pool.Find(TestKey(2)), nullptr);
  EXPECT_NE(pool.Find(TestKey(1)), nullptr);
  ChunkPool off(0);
  Keep(off, 1, 1);
  EXPECT_EQ(off.Find(TestKey(1)), nullptr);
  EXPECT_EQ(off.stats().resident_bytes, 0);
}

TEST(ChunkPoolTest, AChunkInUseOutlivesItsEviction) {
  ChunkPool pool(10 * kTokenBytes);
  Keep(pool, 1, 10);
  const std::shared_ptr<const RawChunk> used = pool.Find(TestKey(1));
  Keep(pool, 2, 10);
  EXPECT_EQ(pool.Find(TestKey(1)), nullptr);
  EXPECT_EQ(used->tokens(), 10);
  EXPECT_EQ(used.use_count(), 1);  // the pool's own reference is gone: memory is limit and use
}

TEST(ChunkPoolTest, TheSameChunkAgainTakesNoMoreRoom) {
  ChunkPool pool(10 * kTokenBytes);
  Keep(pool, 1, 5);
  Keep(pool, 1, 5);
  EXPECT_EQ(pool.stats().resident_bytes, 5 * kTokenBytes);
  EXPECT_EQ(pool.stats().kept, 1u);
}

// Against a plain list, for many sizes: never above the limit, and the right ones go.
TEST(ChunkPoolTest, IsAnLruOfBytes) {
  constexpr int64_t kLimit = 200 * kTokenBytes;
  ChunkPool pool(kLimit);
  std::list<std::pair<uint32_t, int64_t>> wanted;  // number and tokens, the last used first
  std::minstd_rand random(1);
  for (int step = 0; step < 5000; ++step) {
    const uint32_t number = random() % 30;
    const int64_t tokens = 1 + (number * 7919) % 90;
    const auto found = std::find_if(wanted.begin(), wanted.end(),
                                    [&](const auto& entry) { return entry.first == number; });
    ASSERT_EQ(pool.Find(TestKey(number)) != nullptr, found != wanted.end()) << step;
    if (found != wanted.end()) {
      wanted.splice(wanted.begin(), wanted, found);
      continue;
    }
    Keep(pool, number, tokens);
    wanted.emplace_front(number, tokens);
    int64_t bytes = 0;
    for (auto entry = wanted.begin(); entry != wanted.end();) {
      bytes += entry->second * kTokenBytes;
      entry = bytes > kLimit ? wanted.erase(entry, wanted.end()), wanted.end() : std::next(entry);
    }
    ASSERT_LE(pool.stats().resident_bytes, kLimit);
    ASSERT_EQ(pool.stats().resident_chunks, static_cast<int64_t>(wanted.size()));
  }
  EXPECT_GT(pool.stats().evictions, 100u);
}

TEST(ChunkPoolTest, ProgressWakesWhoWaitsAndTellsTheOwner) {
  ChunkPool pool(0);
  int calls = 0;
  pool.set_on_progress([&] { ++calls; });
  pool.Progress();
  pool.AwaitProgress(absl::InfiniteFuture());
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace tessera
