#include "gpu_worker/serve/chunk_writer.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

// A cache that is slow to store: it waits until it is told to go on.
class SlowClient final : public CacheClient {
 public:
  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override {
    return MakeNullCacheClient()->Fetch(std::move(targets), options);
  }
  size_t Store(const std::vector<StoreSource>& sources, const CallOptions&) override {
    if (!entered.HasBeenNotified()) entered.Notify();
    go_on.WaitForNotification();
    stored += sources.size();
    return sources.size();
  }
  std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys, const CallOptions&) override {
    return std::vector<bool>(keys.size(), stored == 0);
  }
  ClientCounters counters() const override { return {}; }

  absl::Notification entered, go_on;
  size_t stored = 0;
};

std::vector<FreshChunk> OneChunk(const ModelConfig& model) {
  std::vector<FreshChunk> chunks(1);
  chunks[0].chunk = std::make_unique<RawChunk>(model, 16, 16);
  return chunks;
}

TEST(ChunkWriterTest, HoldsNoMoreBytesThanItMay) {
  const ModelConfig model = *ParseModelConfig(TinyLlamaConfig());
  const RawChunk size(model, 16, 16);
  const int64_t bytes = size.SliceBytes(0) * size.layers();
  SlowClient client;
  {
    ChunkWriter writer(&client, 16, 2 * bytes);
    writer.Write(OneChunk(model));
    client.entered.WaitForNotification();  // it is being stored, and still counts
    writer.Write(OneChunk(model));
    writer.Write(OneChunk(model));
    EXPECT_EQ(writer.dropped(), 1u);
    client.go_on.Notify();
  }
  EXPECT_EQ(client.stored, 2u);
}

TEST(ChunkWriterTest, StoresWhatWaitsBeforeItEnds) {
  const ModelConfig model = *ParseModelConfig(TinyLlamaConfig());
  SlowClient client;
  client.go_on.Notify();
  {
    ChunkWriter writer(&client, 16, 1 << 24);
    for (int i = 0; i < 20; ++i) writer.Write(OneChunk(model));
    writer.Write({});
  }
  EXPECT_EQ(client.stored, 20u);
}

TEST(ChunkWriterTest, WhoAwaitsAStoreHearsHowItEnded) {
  const ModelConfig model = *ParseModelConfig(TinyLlamaConfig());
  const RawChunk size(model, 16, 16);
  const int64_t bytes = size.SliceBytes(0) * size.layers();
  SlowClient client;
  absl::Notification first_done;
  std::vector<absl::StatusOr<size_t>> heard;
  {
    ChunkWriter writer(&client, 16, 2 * bytes);
    ChunkWriter::Room room = writer.TryReserve(2 * bytes);
    EXPECT_EQ(room.bytes(), 2 * bytes);
    EXPECT_EQ(writer.TryReserve(1).bytes(), 0);
    AwaitedStore store;
    store.chunk = std::make_unique<RawChunk>(model, 16, 16);
    store.sources = {{ChunkKey(), 3, 64, store.chunk->PieceMemory(0)}};
    store.keys = {ChunkKey(), ChunkKey()};
    store.done = [&](absl::StatusOr<size_t> missing) {
      heard.push_back(missing);
      // The room is free by then: who sends one chunk after the other is not refused.
      EXPECT_EQ(writer.TryReserve(2 * bytes).bytes(), 2 * bytes);
      first_done.Notify();
    };
    writer.Store(std::move(store), std::move(room));
    client.entered.WaitForNotification();
    EXPECT_EQ(writer.TryReserve(1).bytes(), 0) << "it still counts";
    client.go_on.Notify();
    first_done.WaitForNotification();
  }
  ASSERT_EQ(heard.size(), 1u);
  ASSERT_TRUE(heard[0].ok());
  EXPECT_EQ(*heard[0], 0u);
}

}  // namespace
}  // namespace tessera
