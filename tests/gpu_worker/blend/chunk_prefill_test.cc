#include "gpu_worker/blend/chunk_prefill.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

class ChunkPrefillTest : public ::testing::Test {
 protected:
  RawChunk Prefill(const std::vector<uint32_t>& sink, const std::vector<uint32_t>& tokens,
                   int64_t tokens_per_piece) {
    RawChunk chunk(worker_.decoder->config(), static_cast<int64_t>(tokens.size()),
                   tokens_per_piece);
    EXPECT_TRUE(prefill_.Run(sink, tokens, 0, worker_.never.value(), chunk).ok());
    return chunk;
  }

  const std::unique_ptr<CacheClient> no_cache_ = MakeNullCacheClient();
  TinyWorker worker_{no_cache_.get()};
  ChunkPrefill prefill_{worker_.decoder.get()};
};

TEST_F(ChunkPrefillTest, IsThePlainPrefillWithoutTheSinksRows) {
  const std::vector<uint32_t> sink = {1}, tokens = TinyTokens(7, 40);
  const RawChunk chunk = Prefill(sink, tokens, 64);
  std::vector<uint32_t> all = sink;
  all.insert(all.end(), tokens.begin(), tokens.end());
  const KvMemory kv(worker_.decoder->config(), 41), placed(worker_.decoder->config(), 41);
  ASSERT_TRUE(worker_.decoder->Extend(kv, all, 0, worker_.never.value()).ok());
  for (int64_t layer = 0; layer < 3; ++layer) {
    worker_.ops->PlaceSlice(chunk.Slice(0, layer), 1, worker_.decoder->rope(), placed.Layer(layer));
    double error = 0, size = 0;
    for (int64_t head = 0; head < 2; ++head) {
      for (int64_t slot = 1; slot <= 40; ++slot) {
        for (int64_t i = 0; i < 16; ++i) {
          const LayerKv want = kv.Layer(layer), got = placed.Layer(layer);
          error += std::pow(want.K(head, slot)[i] - got.K(head, slot)[i], 2) +
                   std::pow(want.V(head, slot)[i] - got.V(head, slot)[i], 2);
          size += std::pow(want.K(head, slot)[i], 2) + std::pow(want.V(head, slot)[i], 2);
        }
      }
    }
    EXPECT_LT(std::sqrt(error / size), 0.01) << "layer " << layer;  // bf16 keeps 8 bits
  }
}

TEST_F(ChunkPrefillTest, DependsOnSinkAndTextAlone) {
  const RawChunk one = Prefill({1}, TinyTokens(7, 40), 16);
  Prefill({1}, TinyTokens(8, 30), 16);
  Prefill({5, 6}, TinyTokens(7, 40), 16);
  const RawChunk again = Prefill({1}, TinyTokens(7, 40), 16);
  const RawChunk other_sink = Prefill({5, 6}, TinyTokens(7, 40), 16);
  for (int64_t piece = 0; piece < 3; ++piece) {
    const size_t bytes = one.SliceBytes(piece) * one.layers();
    EXPECT_EQ(std::memcmp(one.PieceMemory(piece), again.PieceMemory(piece), bytes), 0);
    EXPECT_NE(std::memcmp(one.PieceMemory(piece), other_sink.PieceMemory(piece), bytes), 0);
  }
}

TEST_F(ChunkPrefillTest, GoesOnBehindPiecesThatAreThere) {
  const std::vector<uint32_t> tokens = TinyTokens(7, 40);
  const RawChunk whole = Prefill({1}, tokens, 16);
  RawChunk rest(worker_.decoder->config(), 40, 16);
  std::memcpy(rest.PieceMemory(0), whole.PieceMemory(0), whole.SliceBytes(0) * whole.layers());
  ASSERT_TRUE(prefill_.Run({1}, tokens, 1, worker_.never.value(), rest).ok());
  for (int64_t piece = 0; piece < 3; ++piece) {
    EXPECT_EQ(std::memcmp(whole.PieceMemory(piece), rest.PieceMemory(piece),
                          whole.SliceBytes(piece) * whole.layers()),
              0)
        << "piece " << piece;
  }
}

TEST_F(ChunkPrefillTest, PieceSizeChangesNothingButRounding) {
  const std::vector<uint32_t> tokens = TinyTokens(7, 100);
  const RawChunk one = Prefill({1}, tokens, 100), many = Prefill({1}, tokens, 32);
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (int64_t t = 0; t < 100; ++t) {
      const SliceView a = one.Slice(0, layer), b = many.Slice(t / 32, layer);
      for (int64_t i = 0; i < 32; ++i) {
        const float x = ToFloat(a.k[t * 32 + i]), y = ToFloat(b.k[(t % 32) * 32 + i]);
        ASSERT_NEAR(x, y, 0.03 * (1 + std::abs(x))) << "layer " << layer << " token " << t;
      }
    }
  }
}

TEST_F(ChunkPrefillTest, StopsWhenCancelled) {
  const std::vector<uint32_t> tokens = TinyTokens(7, 40);
  RawChunk chunk(worker_.decoder->config(), 40, 16);
  const std::atomic<bool> cancelled = true;
  EXPECT_EQ(prefill_.Run({1}, tokens, 0, cancelled, chunk).code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(
      prefill_.Run({1}, tokens, 0, worker_.never.value(), chunk).ok());  // and nothing stays half
  const RawChunk fresh = Prefill({1}, tokens, 16);
  EXPECT_EQ(std::memcmp(chunk.PieceMemory(0), fresh.PieceMemory(0), fresh.SliceBytes(0) * 3), 0);
}

}  // namespace
}  // namespace tessera
