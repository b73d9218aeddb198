// How fast a worker's device is: full prefill, blends with their chunks in the device's memory and
// in a cache server's RAM tier (in this process, over shared memory), and decode steps, each beside
// the least time that the device's measured rates allow. Random weights of a known model's shape.
// Ends with a line of JSON.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/cancel_flag.h"
#include "base/process.h"
#include "cache_server/chunk/shared_memory.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/service/server.h"
#include "cache_server/service/shm_server.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/ram_tier.h"
#include "glog/logging.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/device_read_memory.h"
#include "gpu_worker/device/make_ops.h"
#include "gpu_worker/model/decoder.h"
#include "tests/bench/made_up.h"
#include "tests/bench/worker_rates.h"
#include "tests/bench/worker_shape.h"

ABSL_FLAG(std::string, device, "auto", "what computes: auto, cpu, cuda");
ABSL_FLAG(bool, small, false, "a tiny shape, to try the bench itself");
ABSL_FLAG(std::vector<std::string>, tokens, std::vector<std::string>({"8192"}), "prompt lengths");
ABSL_FLAG(int, passages, 8, "chunks in the prompt");
ABSL_FLAG(int, suffix, 32, "tokens of the question");
ABSL_FLAG(int, repeats, 10, "runs of each case; medians are reported");
ABSL_FLAG(std::vector<std::string>, batches, std::vector<std::string>({"1", "32"}),
          "requests that decode together");
ABSL_FLAG(std::vector<std::string>, cases,
          std::vector<std::string>({"full", "hkvd_v:0.15:ram", "query_v:0.15:hbm",
                                    "query_v:0.15:ram", "query_v:0.1:hbm"}),
          "what is prefilled: full, or policy:ratio:where");
ABSL_FLAG(std::string, cache, "", "address of a cache server; empty: one in this process");
ABSL_FLAG(bool, shm, true, "read the cache server's shared memory; otherwise over gRPC");
ABSL_FLAG(uint64_t, ram_bytes, uint64_t{12} << 30, "of the cache server's RAM tier");

namespace tessera {
namespace {

constexpr int64_t kLead = 24;

struct Case {
  std::string name;
  bool exact = false;
  bool in_hbm = false;
  std::string policy;
  double ratio = 0;
};

Case ParseCase(const std::string& name) {
  if (name == "full") return {.name = name, .exact = true};
  const std::vector<std::string> parts = absl::StrSplit(name, ':');
  CHECK_EQ(parts.size(), 3u) << "a case is full or policy:ratio:where";
  CHECK(parts[2] == "hbm" || parts[2] == "ram") << "chunks are in hbm or ram";
  return {
      .name = name, .in_hbm = parts[2] == "hbm", .policy = parts[0], .ratio = std::stod(parts[1])};
}

class Bench {
 public:
  Bench() {
    auto ops = MakeOps(absl::GetFlag(FLAGS_device), 0);
    CHECK(ops.ok()) << ops.status();
    ops_ = *std::move(ops);
    const ModelConfig model = BenchShape(absl::GetFlag(FLAGS_small));
    decoder_ = MakeRandomDecoder(model, model.max_positions, ops_.get());
    decoder_->Prepare(/*folder=*/"");
    Connect(absl::GetFlag(FLAGS_cache).empty() ? StartCacheServer() : absl::GetFlag(FLAGS_cache));
    rates_ = MeasureRates(*decoder_);
    std::printf(
        "%s: products %.0f TFLOP/s, attention %.0f TFLOP/s, memory %.2f TB/s, from the "
        "host %.1f GB/s\n",
        ops_->name().c_str(), rates_.product / 1e12, rates_.attention / 1e12, rates_.memory / 1e12,
        rates_.upload / 1e9);
  }

  std::string Prefill(const Case& of, int64_t tokens) {
    const ChunkKey fingerprint;
    ChunkPool pool(of.in_hbm ? int64_t{8} << 30 : 0);
    Blender blender(decoder_.get(), client_.get(), fingerprint, config_, &pool);
    const BlendRequest request = RequestOf(of, tokens);
    std::vector<double> seconds;
    for (int run = 0; run <= absl::GetFlag(FLAGS_repeats); ++run) {
      const absl::Time start = absl::Now();
      auto done = blender.Prefill(request, never_);
      const double took = absl::ToDoubleSeconds(absl::Now() - start);
      CHECK(done.ok()) << done.status();
      client_->Store(SourcesOf(done->fresh, config_.tokens_per_piece), absl::Seconds(60));
      if (run == 0) continue;  // warms up, and makes the chunks
      CHECK(of.exact || done->segments[1].cached_tokens == done->segments[1].tokens)
          << "the chunks are not where they should be";
      seconds.push_back(took);
    }
    const double median = Median(seconds), least = LeastSeconds(of, tokens);
    std::printf("%-18s %6d tokens: %8.2f ms (%.2f .. %.2f), at least %7.2f ms\n", of.name.c_str(),
                static_cast<int>(tokens), median * 1e3,
                *std::min_element(seconds.begin(), seconds.end()) * 1e3,
                *std::max_element(seconds.begin(), seconds.end()) * 1e3, least * 1e3);
    std::fflush(stdout);
    return absl::StrFormat(R"({"case": "%s", "tokens": %d, "ms": %.3f, "floor_ms": %.3f})", of.name,
                           tokens, median * 1e3, least * 1e3);
  }

  std::string Decode(int64_t batch, int64_t context) {
    const ModelConfig& model = decoder_->config();
    if (batch * (context + 128) * decoder_->KvBytesPerToken() > decoder_->memory().free_bytes()) {
      std::printf("decode %3d at %6d tokens: its KV does not fit\n", static_cast<int>(batch),
                  static_cast<int>(context));
      return absl::StrFormat(R"({"case": "decode:%d", "tokens": %d, "fits": false})", batch,
                             context);
    }
    KvPool pool(model, batch * (KvPool::BlocksFor(context) + 2), &decoder_->memory());
    std::vector<KvMemory> memories;
    for (int64_t r = 0; r < batch; ++r) {
      CHECK(memories.emplace_back(&pool).Grow(context + absl::GetFlag(FLAGS_repeats) + 8));
    }
    // One prompt's KV for all, each in blocks of its own.
    const auto last =
        decoder_->Extend(memories[0], MadeUpTokens(5, context, model.vocab), 0, never_.value());
    CHECK(last.ok()) << last.status();
    for (int64_t r = 1; r < batch; ++r) {
      for (int64_t b = 0; b < KvPool::BlocksFor(context); ++b) {
        pool.CopyBlock(memories[0].blocks()[b], memories[r].blocks()[b]);
      }
    }
    std::vector<double> seconds;
    for (int step = 0; step < absl::GetFlag(FLAGS_repeats) + 3; ++step) {
      std::vector<DecodeRow> rows;
      for (const KvMemory& kv : memories) rows.push_back({&kv, 100, context + step});
      const absl::Time start = absl::Now();
      decoder_->DecodeToSample(rows);
      if (step >= 3) seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
    }
    const double weights = 2.0 * (ProductNumbers(model) * model.layers +
                                  static_cast<double>(model.vocab * model.hidden));
    const double bytes =
        weights + static_cast<double>(batch * context * decoder_->KvBytesPerToken());
    const double median = Median(seconds), least = bytes / rates_.memory;
    std::printf(
        "decode %3d at %6d tokens: %8.3f ms a step, at least %7.3f ms (%.0f %% of the "
        "memory's rate)\n",
        static_cast<int>(batch), static_cast<int>(context), median * 1e3, least * 1e3,
        100 * least / median);
    std::fflush(stdout);
    return absl::StrFormat(R"({"case": "decode:%d", "tokens": %d, "ms": %.3f, "floor_ms": %.3f})",
                           batch, context, median * 1e3, least * 1e3);
  }

  // Of the bytes that came from the cache server, the share that shared memory brought.
  double ShmShare() const {
    const ClientCounters counters = client_->counters();
    return static_cast<double>(counters.shm_bytes) /
           static_cast<double>(std::max<uint64_t>(1, counters.fetched_bytes));
  }
  const Ops& ops() const { return *ops_; }
  const DeviceRates& rates() const { return rates_; }

 private:
  // Gives its address.
  std::string StartCacheServer() {
    auto memory = SharedMemory::Create(absl::GetFlag(FLAGS_ram_bytes), /*huge_pages=*/true);
    CHECK(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    std::vector<std::unique_ptr<Tier>> tiers;
    tiers.push_back(MakeRamTier(memory_, RamTierOptions()));
    store_ = std::make_unique<ChunkStore>(std::move(tiers));
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.instance_id = RandomInstanceId();
    ShmServerOptions shm_options;
    shm_options.path = absl::StrCat("/tmp/tessera_worker_bench_", getpid());
    shm_options.instance_id = options.instance_id;
    options.shm_socket = shm_options.path;
    auto shm = ShmServer::Start(shm_options, memory_, store_.get());
    CHECK(shm.ok()) << shm.status();
    shm_ = *std::move(shm);
    auto server = CacheServer::Start(
        options, {.store = store_.get(), .counters = &counters_, .shm = shm_.get()});
    CHECK(server.ok()) << server.status();
    server_ = *std::move(server);
    return absl::StrCat("127.0.0.1:", server_->port());
  }

  void Connect(const std::string& address) {
    read_memory_ = std::make_unique<DeviceReadMemory>(&decoder_->memory());
    auto client = MakeCacheClient({.address = address, .shared_memory = absl::GetFlag(FLAGS_shm)},
                                  decoder_->memory().is_host() ? nullptr : read_memory_.get());
    CHECK(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  BlendRequest RequestOf(const Case& of, int64_t tokens) const {
    const int64_t vocab = decoder_->config().vocab, passages = absl::GetFlag(FLAGS_passages);
    const int64_t suffix = absl::GetFlag(FLAGS_suffix);
    const int64_t each = (tokens - kLead - suffix) / passages;
    BlendRequest request;
    request.segments.push_back(MadeUpTokens(1, tokens - suffix - each * passages, vocab));
    for (int64_t i = 0; i < passages; ++i) {
      request.segments.push_back(MadeUpTokens(10 + i, each, vocab));
    }
    request.segments.push_back(MadeUpTokens(2, suffix, vocab));
    request.exact = of.exact;
    if (of.exact) return request;
    const auto policy = SelectionPolicy::Parse(of.policy);
    CHECK(policy.ok()) << policy.status();
    request.policy = *policy;
    request.recompute_ratio = of.ratio;
    request.correction = policy->corrects_by_default();
    return request;
  }

  // From the rates alone: products and attention of the rows that must be computed, the weights
  // read once more for a query pass, the chunks brought over beside all that.
  double LeastSeconds(const Case& of, int64_t tokens) const {
    const ModelConfig& model = decoder_->config();
    const auto layers = static_cast<double>(model.layers), all = static_cast<double>(tokens);
    const double suffix = absl::GetFlag(FLAGS_suffix), cached = all - suffix;
    const double pairs_of_all = all * all / 2;
    const double pair = 4.0 * static_cast<double>(model.heads * model.head_dim);
    auto rows = [&](double count, double pairs, double in_layers) {
      return in_layers *
             (2 * ProductNumbers(model) * count / rates_.product + pair * pairs / rates_.attention);
    };
    if (of.exact) return rows(all, pairs_of_all, layers);
    const double computed = of.ratio * cached + suffix;
    const double pairs = of.ratio * pairs_of_all + suffix * all;
    double seconds = 0;
    if (of.policy.substr(0, 4) == "hkvd") {
      seconds = rows(all, pairs_of_all, 1) + rows(computed, pairs, layers - 1);
    } else {
      seconds = rows(computed, pairs, layers) + 2 * ProductNumbers(model) * layers / rates_.memory;
    }
    const double kv =
        cached * 2.0 * static_cast<double>(model.kv_heads * model.head_dim) * 2 * layers;
    return of.in_hbm ? seconds : std::max(seconds, kv / rates_.upload);
  }

  const CancelFlag never_;
  const BlendConfig config_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Decoder> decoder_;
  DeviceRates rates_;
  TransportCounters counters_;
  std::unique_ptr<ChunkStore> store_;
  std::shared_ptr<SharedMemory> memory_;
  std::unique_ptr<ShmServer> shm_;
  std::unique_ptr<CacheServer> server_;
  std::unique_ptr<DeviceReadMemory> read_memory_;
  std::unique_ptr<CacheClient> client_;
};

void Main() {
  Bench bench;
  std::vector<std::string> results;
  for (const std::string& tokens : absl::GetFlag(FLAGS_tokens)) {
    for (const std::string& name : absl::GetFlag(FLAGS_cases)) {
      results.push_back(bench.Prefill(ParseCase(name), std::stol(tokens)));
    }
    for (const std::string& batch : absl::GetFlag(FLAGS_batches)) {
      results.push_back(bench.Decode(std::stol(batch), std::stol(tokens)));
    }
  }
  std::printf(
      R"({"bench": "worker", "device": "%s", "product_tflops": %.1f, "attention_tflops": %.1f, )"
      R"("memory_tbs": %.2f, "upload_gbs": %.1f, "shm_share": %.3f, "results": [%s]})"
      "\n",
      bench.ops().name().c_str(), bench.rates().product / 1e12, bench.rates().attention / 1e12,
      bench.rates().memory / 1e12, bench.rates().upload / 1e9, bench.ShmShare(),
      absl::StrJoin(results, ", ").c_str());
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  tessera::Main();
  return 0;
}
