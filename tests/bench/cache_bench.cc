// How fast one reader gets a piece from the cache server and puts one there, by every way that the
// client has, beside Redis on the same machine in the same run.
//
//   bazel run -c opt //tests/bench:cache_bench          (needs: deploy/install.sh bench)
//
// Starts the real cache server twice (TCP with shared memory, and a Unix socket) and a redis-server
// that keeps nothing on disk. Every combination of size, way and Get or Put is measured in slices
// of time, round after round, so that what else the machine does hits all alike. Prints a table of
// latencies, and last one line of JSON.
//
// A Get ends when all bytes are there and their checksums were verified: in this process's memory;
// for "shm in place" in the server's. "shm place" is a Get up to the server's word on where the
// piece lies, with its lease: what a reader waits for that reads as it goes. Redis verifies
// nothing.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/process.h"
#include "cache_server/chunk/buffer.h"
#include "cache_server/client/cache_client.h"
#include "glog/logging.h"
#include "tests/bench/child_process.h"
#include "tests/bench/redis.h"

ABSL_FLAG(double, seconds, 0.25, "Time for one combination in one round.");
ABSL_FLAG(int, rounds, 9, "Rounds.");
ABSL_FLAG(std::string, server, tessera::bench::BuiltServer(), "The cache server's program.");
ABSL_FLAG(std::string, redis, "redis-server", "Redis's program; empty: without Redis.");
ABSL_FLAG(uint64_t, ram_bytes, uint64_t{1} << 30, "Memory of each server, and of Redis's values.");

namespace tessera::bench {
namespace {

struct Size {
  std::string name;
  uint32_t layers;
  uint64_t slice_bytes;
  uint64_t bytes() const { return layers * slice_bytes; }
};
const std::vector<Size> kSizes = {
    {"64 KiB", 1, 64 << 10}, {"1 MiB", 1, 1 << 20}, {"4 MiB", 4, 1 << 20}, {"32 MiB", 32, 1 << 20}};

// Pieces of one size that Gets go round. Of the large ones together more than a processor caches.
constexpr uint64_t kMostGetKeys = 16;
uint64_t GetKeys(const Size& size) {
  return std::clamp<uint64_t>((uint64_t{128} << 20) / size.bytes(), 4, kMostGetKeys);
}

double OwnCpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return absl::ToDoubleSeconds(absl::DurationFromTimeval(usage.ru_utime) +
                               absl::DurationFromTimeval(usage.ru_stime));
}

// One way to get and put values. Numbers below kMostGetKeys are for Gets; others are put once.
struct Way {
  std::string name;
  pid_t server;
  std::string compared_with;  // the name of Redis's way; empty for Redis itself
  std::function<void(const Size&, uint64_t number)> get;
  std::function<void(const Size&, uint64_t number)> put;
  bool measures_put = true;
  bool moves_bytes = true;
};

// What was measured of one combination, in all rounds.
struct Cell {
  std::vector<double> seconds;  // of each call
  double cpu_seconds = 0;       // of both processes
  uint64_t bytes = 0;

  double Quantile(double share) const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<size_t>(share * static_cast<double>(sorted.size() - 1))];
  }
};

// Pieces of one size and one use do not meet those of another.
ChunkKey KeyOf(const Size& size, uint64_t number) {
  ChunkKey space;
  space.bytes[0] = static_cast<uint8_t>(size.layers);
  space.bytes[1] = static_cast<uint8_t>(size.slice_bytes >> 16);
  return MakePieceKey(space, 256, static_cast<uint32_t>(number));
}

class Bench {
 public:
  Bench();
  // 0 when all that is promised holds.
  int Run();

 private:
  std::string StartServer(const std::string& listen, const std::string& name);
  void StartRedis();
  CacheClient* AddClient(const std::string& address, bool shared_memory);
  void AddClientWays(const std::string& name, CacheClient* client, pid_t server,
                     const std::string& compared_with);
  void AddInPlaceWays(CacheClient* client, pid_t server);
  template <typename Address>
  void AddRedisWay(const std::string& name, const Address& address);
  std::unique_ptr<FetchStream> InPlace(CacheClient* client, const Size& size, uint64_t number);

  void Fill();
  void Measure(const Way& way, const Size& size, bool get);
  double Ratio(const Way& way, const Size& size, bool get) const;
  void Report(const Way& way, const Size& size, bool get);
  void Promise(const std::string& what, bool holds);
  void Conclude();

  const ScratchFolder folder_{"/tmp"};
  Buffer source_;
  Buffer target_;
  std::vector<std::unique_ptr<ChildProcess>> processes_;
  std::vector<std::unique_ptr<CacheClient>> clients_;
  std::vector<Way> ways_;
  std::map<std::tuple<std::string, std::string, bool>, Cell> cells_;  // by way, size and Get
  uint64_t next_put_ = kMostGetKeys;
  std::vector<std::string> json_;
  bool all_hold_ = true;
};

Bench::Bench() {
  const uint64_t most = kSizes.back().bytes();
  source_ = Buffer::Allocate(most).value();
  target_ = Buffer::Allocate(most).value();
  for (size_t i = 0; i < most; ++i) source_.mutable_view()[i] = static_cast<std::byte>(i * 31 >> 3);
  std::fill_n(target_.mutable_view().data(), most, std::byte{0});

  const std::string ready = StartServer("127.0.0.1:0", "tcp");
  const size_t port = ready.find(" port=") + 6;
  const std::string tcp = "127.0.0.1:" + ready.substr(port, ready.find(' ', port) - port);
  const pid_t tcp_server = processes_.back()->pid();
  const std::string socket = absl::StrCat("unix:", folder_.path(), "/cache");
  StartServer(socket, "unix");
  const pid_t unix_server = processes_.back()->pid();

  CacheClient* shm = AddClient(tcp, true);
  AddInPlaceWays(shm, tcp_server);
  AddClientWays("shm", shm, tcp_server, "redis unix");
  AddClientWays("unix", AddClient(socket, false), unix_server, "redis unix");
  AddClientWays("tcp", AddClient(tcp, false), tcp_server, "redis tcp");
  if (!absl::GetFlag(FLAGS_redis).empty()) StartRedis();
}

// Returns what it says when it is ready.
std::string Bench::StartServer(const std::string& listen, const std::string& name) {
  const std::string log = absl::StrCat(folder_.path(), "/", name, ".log");
  processes_.push_back(std::make_unique<ChildProcess>(
      // With lru, what was stored last is there: s3fifo would keep the small pieces that are read
      // all the time, and let go of large new ones.
      std::vector<std::string>{absl::GetFlag(FLAGS_server), "--listen=" + listen, "--eviction=lru",
                               absl::StrCat("--ram_bytes=", absl::GetFlag(FLAGS_ram_bytes))},
      log));
  std::string ready = processes_.back()->WaitForLine("event=ready", absl::Seconds(20));
  CHECK(!ready.empty()) << absl::GetFlag(FLAGS_server) << " did not start";
  return ready;
}

void Bench::StartRedis() {
  const std::string socket = folder_.path() + "/redis";
  const int port = FreePort();
  processes_.push_back(std::make_unique<ChildProcess>(
      std::vector<std::string>{absl::GetFlag(FLAGS_redis), "--port", absl::StrCat(port), "--bind",
                               "127.0.0.1", "--unixsocket", socket, "--save", "", "--appendonly",
                               "no", "--dir", folder_.path()},
      folder_.path() + "/redis.log"));
  if (processes_.back()->WaitForLine("The server is now ready", absl::Seconds(20)).empty()) {
    std::printf("without Redis: %s does not start (deploy/install.sh bench installs it)\n",
                absl::GetFlag(FLAGS_redis).c_str());
    return;
  }
  AddRedisWay("redis unix", socket);
  AddRedisWay("redis tcp", port);
}

CacheClient* Bench::AddClient(const std::string& address, bool shared_memory) {
  CacheAddress where;
  where.address = address;
  where.shared_memory = shared_memory;
  auto client = MakeCacheClient(where);
  CHECK(client.ok()) << client.status();
  clients_.push_back(*std::move(client));
  return clients_.back().get();
}

void Bench::AddClientWays(const std::string& name, CacheClient* client, pid_t server,
                          const std::string& compared_with) {
  const auto get = [this, client](const Size& size, uint64_t number) {
    const auto stream = client->Fetch(
        {{KeyOf(size, number), size.layers, size.slice_bytes, target_.mutable_view().data()}}, {});
    CHECK(stream->WaitForSlice(0, size.layers - 1)) << size.name;
  };
  const auto put = [this, client](const Size& size, uint64_t number) {
    const StoreSource source = {KeyOf(size, number), size.layers, size.slice_bytes,
                                source_.view().data()};
    const size_t stored = client->Store({source}, absl::Seconds(20));
    CHECK(stored == 1 || number < kMostGetKeys) << size.name;
  };
  ways_.push_back({name, server, compared_with, get, put});
}

std::unique_ptr<FetchStream> Bench::InPlace(CacheClient* client, const Size& size,
                                            uint64_t number) {
  return client->Fetch({{KeyOf(size, number), size.layers, size.slice_bytes, nullptr}}, {});
}

void Bench::AddInPlaceWays(CacheClient* client, pid_t server) {
  const auto place = [this, client](const Size& size, uint64_t number) {
    CHECK(!InPlace(client, size, number)->WaitForHeader()[0].empty()) << size.name;
  };
  const auto read = [this, client](const Size& size, uint64_t number) {
    const auto stream = InPlace(client, size, number);
    CHECK(stream->WaitForSlice(0, size.layers - 1)) << size.name;
    CHECK(stream->LeaseHeld());
  };
  const auto put = [this, client](const Size& size, uint64_t number) {
    client->Store({{KeyOf(size, number), size.layers, size.slice_bytes, source_.view().data()}},
                  absl::Seconds(20));
  };
  ways_.push_back({"shm place", server, "redis unix", place, put, false, false});
  ways_.push_back({"shm in place", server, "redis unix", read, put, false});
}

template <typename Address>
void Bench::AddRedisWay(const std::string& name, const Address& address) {
  const auto redis = std::make_shared<RedisConnection>(address);
  const auto get = [redis](const Size& size, uint64_t number) {
    CHECK_EQ(redis->Get(KeyOf(size, number).AsBytes()), size.bytes());
  };
  // Over values that are there, as many as there is memory for: as with the server, the memory
  // that is written to was used before.
  const auto put = [this, redis](const Size& size, uint64_t number) {
    const uint64_t most = absl::GetFlag(FLAGS_ram_bytes) / kSizes.size() / size.bytes();
    if (number >= kMostGetKeys) number = kMostGetKeys + number % std::max<uint64_t>(most, 1);
    redis->Set(KeyOf(size, number).AsBytes(), source_.view().subspan(0, size.bytes()));
  };
  ways_.push_back({name, processes_.back()->pid(), "", get, put});
}

// All memory has been used once before anything is measured.
void Bench::Fill() {
  for (const Way& way : ways_) {
    if (!way.measures_put) continue;
    for (const Size& size : kSizes) {
      const uint64_t times = absl::GetFlag(FLAGS_ram_bytes) / kSizes.size() / size.bytes();
      for (uint64_t i = 0; i <= times; ++i) way.put(size, next_put_++);
    }
  }
}

void Bench::Measure(const Way& way, const Size& size, bool get) {
  if (get) {
    // Puts may have pushed them out; and one that is there still, but old, is pushed out by those that
    // are stored again before it, so a second pass has to look.
    for (int pass = 0; pass < 3; ++pass) {
      for (uint64_t number = 0; number < GetKeys(size); ++number) way.put(size, number);
    }
  }
  Cell& cell = cells_[{way.name, size.name, get}];
  const double cpu_start = OwnCpuSeconds() + CpuSeconds(way.server);
  const absl::Time end = absl::Now() + absl::Seconds(absl::GetFlag(FLAGS_seconds));
  uint64_t calls = 0;
  while (calls < 3 || absl::Now() < end) {
    const absl::Time start = absl::Now();
    get ? way.get(size, calls % GetKeys(size)) : way.put(size, next_put_++);
    cell.seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
    ++calls;
  }
  cell.cpu_seconds += OwnCpuSeconds() + CpuSeconds(way.server) - cpu_start;
  cell.bytes += calls * size.bytes();
}

// How much less time than Redis's it takes, in the median; 0 when there is nothing to compare with.
double Bench::Ratio(const Way& way, const Size& size, bool get) const {
  const auto other = cells_.find({way.compared_with, size.name, get});
  if (other == cells_.end()) return 0;
  return other->second.Quantile(0.5) / cells_.at({way.name, size.name, get}).Quantile(0.5);
}

void Bench::Report(const Way& way, const Size& size, bool get) {
  const Cell& cell = cells_.at({way.name, size.name, get});
  const double median = cell.Quantile(0.5);
  const double speed = way.moves_bytes ? static_cast<double>(size.bytes()) / 1e9 / median : 0;
  const double cpu = cell.cpu_seconds / (static_cast<double>(cell.bytes) / 1e9);
  const double ratio = Ratio(way, size, get);
  std::printf("%-4s %-7s %-13s %10.1f %10.1f %9.2f %9.3f", get ? "Get" : "Put", size.name.c_str(),
              way.name.c_str(), median * 1e6, cell.Quantile(0.99) * 1e6, speed, cpu);
  std::printf(ratio > 0 ? " %8.2f x\n" : "\n", ratio);
  json_.push_back(
      absl::StrFormat("\"%s %s %s\": {\"p50_us\": %.1f, \"p99_us\": %.1f, \"gb_per_s\": %.3f, "
                      "\"cpu_s_per_gb\": %.3f, \"times_redis\": %.3f}",
                      get ? "get" : "put", size.name, way.name, median * 1e6,
                      cell.Quantile(0.99) * 1e6, speed, cpu, ratio));
}

void Bench::Promise(const std::string& what, bool holds) {
  std::printf("%s: %s\n", what.c_str(), holds ? "yes" : "NO");
  json_.push_back(absl::StrFormat("\"%s\": %s", what, holds ? "true" : "false"));
  all_hold_ = all_hold_ && holds;
}

void Bench::Conclude() {
  double slowest = 0;
  for (const Size& size : kSizes) {
    slowest = std::max(slowest, cells_.at({"shm place", size.name, true}).Quantile(0.5));
  }
  Promise("a Get in place takes below 50 us at every size", slowest < 50e-6);
  const ClientCounters shm = clients_.front()->counters();
  Promise("all of it went over shared memory", shm.shm_bytes > 0 && shm.shm_fallbacks == 0);
  const auto tcp =
      std::find_if(ways_.begin(), ways_.end(), [](const Way& w) { return w.name == "tcp"; });
  if (const double ratio = Ratio(*tcp, kSizes[1], true); ratio > 0) {
    Promise("a Get of 1 MiB over TCP is as fast as Redis's", ratio >= 1);
  }
}

int Bench::Run() {
  Fill();
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
    for (const Size& size : kSizes) {
      for (const Way& way : ways_) {
        Measure(way, size, true);
        if (way.measures_put) Measure(way, size, false);
      }
    }
  }
  std::printf("%-4s %-7s %-13s %10s %10s %9s %9s %10s\n", "", "size", "way", "p50 us", "p99 us",
              "GB/s", "CPU s/GB", "Redis");
  for (const bool get : {true, false}) {
    for (const Size& size : kSizes) {
      for (const Way& way : ways_) {
        if (get || way.measures_put) Report(way, size, get);
      }
    }
  }
  Conclude();
  std::printf("{%s}\n", absl::StrJoin(json_, ", ").c_str());
  return all_hold_ ? 0 : 1;
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  return tessera::bench::Bench().Run();
}
