// How fast pieces travel between a worker's memory and the cache server: Fetch and Store over
// loopback and over a Unix socket, beside memcpy on the same machine in the same run. Client and
// server share this process and its cores. Ends with one line of JSON, in GB/s.
//   bazel run -c opt //tests/bench:fetch_bench -- --seconds=3
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/process.h"
#include "cache_server/chunk/checksum.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/service/server.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/ram_tier.h"
#include "glog/logging.h"

ABSL_FLAG(double, seconds, 2.0, "Time for each number.");
ABSL_FLAG(uint64_t, bytes, uint64_t{256} << 20, "KV bytes in one Fetch or Store call.");

namespace tessera {
namespace {

struct Case {
  std::string name;
  PieceShape shape;
};

struct Speed {
  double gb_per_s = 0;
  double cpu_s_per_gb = 0;  // of this process, all threads
};

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return absl::ToDoubleSeconds(absl::DurationFromTimeval(usage.ru_utime) +
                               absl::DurationFromTimeval(usage.ru_stime));
}

// Calls `work`, which moves `bytes`, for a while: the median GB/s of the calls, after one to warm
// up.
template <typename Work>
Speed Measure(uint64_t bytes, Work work) {
  work();
  std::vector<double> rates;
  const double cpu_start = CpuSeconds();
  const absl::Time end = absl::Now() + absl::Seconds(absl::GetFlag(FLAGS_seconds));
  while (rates.size() < 3 || absl::Now() < end) {
    const absl::Time start = absl::Now();
    work();
    rates.push_back(static_cast<double>(bytes) / 1e9 / absl::ToDoubleSeconds(absl::Now() - start));
  }
  const double gigabytes = static_cast<double>(bytes * rates.size()) / 1e9;
  std::nth_element(rates.begin(), rates.begin() + rates.size() / 2, rates.end());
  return {rates[rates.size() / 2], (CpuSeconds() - cpu_start) / gigabytes};
}

class Bench {
 public:
  Bench() : source_(absl::GetFlag(FLAGS_bytes)), target_(source_.size()) {
    for (size_t i = 0; i < source_.size(); ++i) source_[i] = static_cast<std::byte>(i * 31 >> 3);
  }

  void Run() {
    Report("memcpy", Measure(source_.size(), [this] {
             std::memcpy(target_.data(), source_.data(), source_.size());
           }));
    Report("xxh3", Measure(source_.size(), [this] {
             CHECK_NE(SliceChecksum({source_.data(), source_.size()}), 0u);
           }));
    const std::string socket = absl::StrCat("unix:/tmp/tessera_fetch_bench_", getpid());
    for (const auto& [transport, listen] :
         {std::pair<std::string, std::string>("tcp", "127.0.0.1:0"), {"unix", socket}}) {
      RunTransport(transport, listen);
    }
    std::printf("{%s}\n", absl::StrJoin(report_, ", ").c_str());
  }

 private:
  void Report(const std::string& name, const Speed& speed) {
    std::printf("%-18s %6.2f GB/s %6.2f CPU s/GB\n", name.c_str(), speed.gb_per_s,
                speed.cpu_s_per_gb);
    std::fflush(stdout);
    report_.push_back(absl::StrFormat("\"%s\": {\"gb_per_s\": %.3f, \"cpu_s_per_gb\": %.3f}", name,
                                      speed.gb_per_s, speed.cpu_s_per_gb));
  }

  void RunTransport(const std::string& transport, const std::string& listen) {
    const std::vector<Case> cases = {{"192k", {.layers = 30, .slice_bytes = 192 << 10}},
                                     {"1m", {.layers = 32, .slice_bytes = 1 << 20}}};
    for (const Case& c : cases) {
      std::vector<std::unique_ptr<Tier>> tiers;
      tiers.push_back(MakeRamTier({.capacity_bytes = 2 * source_.size()}));
      ChunkStore store(std::move(tiers));
      ServerOptions options;
      options.listen = listen;
      auto server = CacheServer::Start(options, &store);
      CHECK(server.ok()) << server.status();
      const auto client = MakeGrpcCacheClient(
          (*server)->port() == 0 ? listen : absl::StrCat("127.0.0.1:", (*server)->port()));
      RunCase(absl::StrCat(transport, "_", c.name), c.shape, client.get());
    }
  }

  void RunCase(const std::string& name, PieceShape shape, CacheClient* client) {
    const uint32_t pieces = source_.size() / shape.bytes();
    const uint64_t bytes = pieces * shape.bytes();
    uint32_t generation = 0;
    Report(name + "_store", Measure(bytes, [&] {
             ++generation;  // new keys: what is stored already is not sent again
             std::vector<StoreSource> sources;
             for (uint32_t i = 0; i < pieces; ++i) {
               sources.push_back({MakePieceKey(ChunkKey(), generation, i), shape.layers,
                                  shape.slice_bytes, source_.data() + i * shape.bytes()});
             }
             CHECK_EQ(client->Store(sources, absl::Seconds(60)), pieces);
           }));
    Report(name + "_fetch", Measure(bytes, [&] {
             std::vector<FetchTarget> targets;
             for (uint32_t i = 0; i < pieces; ++i) {
               targets.push_back({MakePieceKey(ChunkKey(), generation, i), shape.layers,
                                  shape.slice_bytes, target_.data() + i * shape.bytes()});
             }
             const auto stream = client->Fetch(std::move(targets), absl::Seconds(60));
             for (uint32_t i = 0; i < pieces; ++i) {
               CHECK(stream->WaitForSlice(i, shape.layers - 1));
             }
           }));
    CHECK_EQ(std::memcmp(source_.data(), target_.data(), bytes), 0);
  }

  std::vector<std::byte> source_;
  std::vector<std::byte> target_;
  std::vector<std::string> report_;
};

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  tessera::Bench().Run();
  return 0;
}
