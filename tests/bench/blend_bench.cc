// Time to the first token's logits of the same prompt: full recompute, cold, and known chunks in a
// new order; and decode speed. Everything in one process, the cache server too (over loopback).
// Ends with a line of JSON.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/cancel_flag.h"
#include "base/process.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/service/server.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/ram_tier.h"
#include "glog/logging.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"
#include "tests/bench/made_up.h"

ABSL_FLAG(std::string, model, "", "Hugging Face folder (required)");
ABSL_FLAG(int, chunks, 8, "chunks in the prompt");
ABSL_FLAG(int, chunk_tokens, 245, "tokens in each");
ABSL_FLAG(int, suffix_tokens, 32, "tokens of the question");
ABSL_FLAG(std::string, policy, "query_v", "selection policy");
ABSL_FLAG(double, ratio, 0.15, "recompute ratio");
ABSL_FLAG(int, repeats, 3, "runs; medians are reported");
ABSL_FLAG(int, decode, 32, "decode steps");
ABSL_FLAG(int, threads, 0, "threads that compute; 0: one per core");

namespace tessera {
namespace {

using Segments = std::vector<std::vector<uint32_t>>;

class Bench {
 public:
  Bench() : ops_(MakeCpuOps(absl::GetFlag(FLAGS_threads))) {
    auto decoder = Decoder::Load(absl::GetFlag(FLAGS_model), 0, ops_.get());
    CHECK(decoder.ok()) << decoder.status();
    decoder_ = std::move(*decoder);
    std::vector<std::unique_ptr<Tier>> tiers;
    auto memory = SharedMemory::Create(uint64_t{4} << 30, /*huge_pages=*/true);
    CHECK(memory.ok()) << memory.status();
    tiers.push_back(MakeRamTier(*std::move(memory), RamTierOptions()));
    store_ = std::make_unique<ChunkStore>(std::move(tiers));
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    auto server = CacheServer::Start(options, {.store = store_.get(), .counters = &counters_});
    CHECK(server.ok()) << server.status();
    server_ = std::move(*server);
    auto client = MakeCacheClient({.address = absl::StrCat("127.0.0.1:", server_->port())});
    CHECK(client.ok()) << client.status();
    client_ = *std::move(client);
    blender_ = std::make_unique<Blender>(decoder_.get(), client_.get(), ChunkKey(), config_);
  }

  // One prompt with chunks of its own, in the order of `seeds`.
  BlendRequest Request(const std::vector<int>& seeds, bool exact) const {
    const int64_t vocab = decoder_->config().vocab;
    BlendRequest request;
    request.segments.push_back(MadeUpTokens(1, 24, vocab));
    for (int seed : seeds) {
      request.segments.push_back(MadeUpTokens(seed, absl::GetFlag(FLAGS_chunk_tokens), vocab));
    }
    request.segments.push_back(MadeUpTokens(2, absl::GetFlag(FLAGS_suffix_tokens), vocab));
    request.policy = *SelectionPolicy::Parse(absl::GetFlag(FLAGS_policy));
    request.recompute_ratio = absl::GetFlag(FLAGS_ratio);
    request.correction = request.policy.corrects_by_default();
    request.exact = exact;
    request.max_new_tokens = absl::GetFlag(FLAGS_decode) + 1;
    return request;
  }

  // Seconds to the logits; what is fresh is stored afterwards.
  double Run(const BlendRequest& request, Prefilled* out = nullptr) {
    const absl::Time start = absl::Now();
    auto done = blender_->Prefill(request, never_);
    CHECK(done.ok()) << done.status();
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    const std::vector<StoreSource> sources = SourcesOf(done->fresh, config_.tokens_per_piece);
    CHECK_EQ(client_->Store(sources, absl::Seconds(60)), sources.size());
    if (out != nullptr) *out = std::move(*done);
    return seconds;
  }

  double DecodeTokensPerSecond(Prefilled& prefilled) {
    const int steps = absl::GetFlag(FLAGS_decode);
    const std::vector<uint32_t> one = {100};
    const absl::Time start = absl::Now();
    for (int i = 0; i < steps; ++i) {
      auto last = decoder_->Extend(prefilled.kv, one, prefilled.tokens + i, never_.value());
      CHECK(last.ok());
      decoder_->Logits(*last);
    }
    return steps / absl::ToDoubleSeconds(absl::Now() - start);
  }

  const Ops& ops() const { return *ops_; }

 private:
  const CancelFlag never_;
  const BlendConfig config_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Decoder> decoder_;
  TransportCounters counters_;
  std::unique_ptr<ChunkStore> store_;
  std::unique_ptr<CacheServer> server_;
  std::unique_ptr<CacheClient> client_;
  std::unique_ptr<Blender> blender_;
};

void Main() {
  Bench bench;
  const int chunks = absl::GetFlag(FLAGS_chunks);
  std::vector<double> full, cold, moved, decode;
  int64_t tokens = 0;
  for (int repeat = 0; repeat < absl::GetFlag(FLAGS_repeats); ++repeat) {
    std::vector<int> seeds;
    for (int i = 0; i < chunks; ++i) seeds.push_back(1000 * (repeat + 1) + i);
    Prefilled last;
    full.push_back(bench.Run(bench.Request(seeds, true)));
    cold.push_back(bench.Run(bench.Request(seeds, false)));
    std::rotate(seeds.begin(), seeds.begin() + chunks / 2, seeds.end());
    moved.push_back(bench.Run(bench.Request(seeds, false), &last));
    tokens = last.tokens;
    decode.push_back(bench.DecodeTokensPerSecond(last));
    std::printf("run %d: full %.3f s, cold %.3f s, reordered %.3f s, decode %.1f tokens/s\n",
                repeat + 1, full.back(), cold.back(), moved.back(), decode.back());
    std::fflush(stdout);
  }
  std::printf(
      "{\"bench\": \"blend\", \"device\": \"%s\", \"tokens\": %d, \"chunks\": %d, \"policy\": "
      "\"%s\", "
      "\"ratio\": %g, \"full_s\": %.4f, \"cold_s\": %.4f, \"reordered_s\": %.4f, "
      "\"cold_over_reordered\": %.2f, \"full_over_reordered\": %.2f, \"prefill_tokens_per_s\": "
      "%.0f, "
      "\"decode_tokens_per_s\": %.1f}\n",
      bench.ops().name().c_str(), static_cast<int>(tokens), chunks,
      absl::GetFlag(FLAGS_policy).c_str(), absl::GetFlag(FLAGS_ratio), Median(full), Median(cold),
      Median(moved), Median(cold) / Median(moved), Median(full) / Median(moved),
      static_cast<double>(tokens) / Median(full), Median(decode));
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  tessera::Main();
  return 0;
}
