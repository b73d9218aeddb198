// A tiny model, a real cache server in this process, and prompts for both.
#ifndef TESSERA_TESTS_GPU_WORKER_BLEND_TINY_BLEND_H_
#define TESSERA_TESTS_GPU_WORKER_BLEND_TINY_BLEND_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/cancel_flag.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/chunk_prefill.h"
#include "gpu_worker/blend/kv_loader.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/server_fixture.h"
#include "tests/gpu_worker/tiny_model.h"

namespace tessera {

// One worker's part that blends.
struct TinyWorker {
  explicit TinyWorker(CacheClient* client, BlendConfig config = SmallPieces(),
                      ChunkPool* pool = nullptr, std::unique_ptr<Ops> device = MakeCpuOps(2))
      : ops(std::move(device)), decoder(LoadTiny(ops.get())), client(client), config(config) {
    fingerprint = LayoutOf(decoder->config(), "digest").Fingerprint();
    blender = std::make_unique<Blender>(decoder.get(), client, fingerprint, config, pool);
  }

  static BlendConfig SmallPieces() {
    BlendConfig config;
    config.tokens_per_piece = 16;
    config.first_k = 4;
    return config;
  }

  static std::unique_ptr<Decoder> LoadTiny(Ops* ops) {
    const std::string folder = TestFolder("tiny");
    WriteTinyModel(TinyLlamaConfig(), folder);
    auto decoder = Decoder::Load(folder, 0, ops);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    return std::move(*decoder);
  }

  // Prefills and stores what was fresh, as the engine does after the first token.
  Prefilled Run(const BlendRequest& request) {
    auto done = blender->Prefill(request, never);
    EXPECT_TRUE(done.ok()) << done.status();
    client->Store(SourcesOf(done->fresh, config.tokens_per_piece), absl::Seconds(10));
    return std::move(*done);
  }

  CancelFlag never;
  std::unique_ptr<Ops> ops;
  std::unique_ptr<Decoder> decoder;
  CacheClient* client;
  BlendConfig config;
  ChunkKey fingerprint;
  std::unique_ptr<Blender> blender;
};

// `count` tokens that depend on `seed`, below the tiny vocabulary and never bos or eos.
inline std::vector<uint32_t> TinyTokens(uint32_t seed, int count) {
  std::vector<uint32_t> ids;
  for (int i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    ids.push_back(3 + (seed >> 10) % 93);
  }
  return ids;
}

inline BlendRequest TinyRequest(const std::vector<std::vector<uint32_t>>& segments,
                                const std::string& policy = "query_v", double ratio = 0.25) {
  BlendRequest request;
  request.segments = segments;
  auto parsed = SelectionPolicy::Parse(policy);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  request.policy = *parsed;
  request.recompute_ratio = ratio;
  request.correction = request.policy.corrects_by_default();
  request.max_new_tokens = 4;
  return request;
}

class TinyBlendTest : public testing::ServerFixture {
 protected:
  void SetUp() override {
    StartServer();
    auto client = MakeCacheClient({.address = address()});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    worker_ = std::make_unique<TinyWorker>(client_.get());
  }

  const std::vector<uint32_t> lead_ = TinyTokens(1, 12), a_ = TinyTokens(2, 50),
                              b_ = TinyTokens(3, 33), c_ = TinyTokens(4, 21),
                              suffix_ = TinyTokens(5, 9);
  std::unique_ptr<CacheClient> client_;
  std::unique_ptr<TinyWorker> worker_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_GPU_WORKER_BLEND_TINY_BLEND_H_
