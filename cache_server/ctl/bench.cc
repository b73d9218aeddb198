// Subcommand bench: how fast pieces go in and out over this connection.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/ctl/command.h"
#include "cache_server/ctl/entries.h"
#include "cache_server/ctl/json.h"
#include "cache_server/ctl/table.h"
#include "cache_server/ctl/units.h"

ABSL_FLAG(tessera::ctl::ByteSize, bytes, tessera::ctl::ByteSize{1 << 20},
          "Bytes of a layer slice, such as 1MiB.");
ABSL_FLAG(uint32_t, layers, 8, "Layer slices of a piece.");
ABSL_FLAG(double, seconds, 3, "How long to put, and then again to get.");
ABSL_FLAG(bool, shared_memory, true, "Read the server's memory in place where it offers that.");

namespace tessera::ctl {
namespace {

constexpr size_t kPieces = 8;  // that are in the cache at a time
constexpr uint64_t kMostPieceBytes = uint64_t{1} << 30;

// What was measured one way.
struct Run {
  std::vector<double> seconds;  // of each piece
  uint64_t piece_bytes = 0;
  size_t failed = 0;

  double total() const {
    double sum = 0;
    for (const double s : seconds) sum += s;
    return sum;
  }
  double GbPerSecond() const {
    const double time = total();
    return time > 0 ? static_cast<double>(piece_bytes * seconds.size()) / 1e9 / time : 0;
  }
  double PercentileMs(double share) const {
    if (seconds.empty()) return 0;
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    const size_t rank = static_cast<size_t>(share * static_cast<double>(sorted.size()));
    return sorted[std::min(rank, sorted.size() - 1)] * 1e3;
  }
};

// Puts and gets pieces of random bytes under random keys. Deletes what it put.
class Bench {
 public:
  // `connection` must not be one that Ctrl-C cancels.
  Bench(CacheClient* client, const Connection* connection, uint32_t layers, uint64_t slice_bytes)
      : client_(*client),
        connection_(*connection),
        layers_(layers),
        slice_bytes_(slice_bytes),
        source_(layers * slice_bytes),
        target_(layers * slice_bytes) {
    for (std::byte& byte : source_) byte = static_cast<std::byte>(random_());
  }

  // Ends early when `interrupt` says so. Errors: a piece that was put and could not be deleted.
  absl::Status Put(absl::Duration time, const Interrupt& interrupt) {
    const absl::Time end = absl::Now() + time;
    put_.piece_bytes = source_.size();
    do {
      RETURN_IF_ERROR(Clean());
      for (size_t i = 0; i < kPieces && !interrupt.requested(); ++i) PutOne();
    } while (absl::Now() < end && !interrupt.requested());
    return absl::OkStatus();
  }

  // Gets what the last round of Put left.
  void Get(absl::Duration time, const Interrupt& interrupt) {
    const absl::Time end = absl::Now() + time;
    get_.piece_bytes = source_.size();
    if (stored_.empty()) return;
    for (size_t i = 0; absl::Now() < end && !interrupt.requested(); ++i) {
      GetOne(stored_[i % stored_.size()]);
    }
  }

  absl::Status Clean() {
    ASSIGN_OR_RETURN(const uint32_t deleted, DeleteKeys(connection_, held_));
    static_cast<void>(deleted);  // some may have been evicted
    held_.clear();
    stored_.clear();
    return absl::OkStatus();
  }

  const Run& put() const { return put_; }
  const Run& get() const { return get_; }

 private:
  void PutOne() {
    ChunkKey key;
    for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random_());
    held_.push_back(key);
    const absl::Time start = absl::Now();
    const size_t stored =
        client_.Store({{key, layers_, slice_bytes_, source_.data()}}, connection_.timeout());
    Count(stored == 1, start, &put_);
    if (stored == 1) stored_.push_back(key);
  }

  void GetOne(const ChunkKey& key) {
    const absl::Time start = absl::Now();
    FetchOptions options;
    options.timeout = connection_.timeout();
    const auto stream = client_.Fetch({{key, layers_, slice_bytes_, target_.data()}}, options);
    bool all = true;
    for (uint32_t layer = 0; all && layer < layers_; ++layer) {
      all = stream->WaitForSlice(0, layer);
    }
    Count(all, start, &get_);
  }

  static void Count(bool done, absl::Time start, Run* run) {
    if (done) {
      run->seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
    } else {
      ++run->failed;
    }
  }

  CacheClient& client_;
  const Connection& connection_;
  const uint32_t layers_;
  const uint64_t slice_bytes_;
  std::mt19937_64 random_{std::random_device()()};
  std::vector<std::byte> source_;
  std::vector<std::byte> target_;
  // To be deleted; also what the server did not say it stored, since its answer may be lost.
  std::vector<ChunkKey> held_;
  std::vector<ChunkKey> stored_;  // to be got
  Run put_;
  Run get_;
};

boost::json::object RunToJson(const Run& run) {
  return {{"pieces", run.seconds.size()},
          {"piece_bytes", run.piece_bytes},
          {"failed", run.failed},
          {"gb_per_s", run.GbPerSecond()},
          {"p50_ms", run.PercentileMs(0.5)},
          {"p99_ms", run.PercentileMs(0.99)}};
}

void PrintRuns(const Bench& bench, const ClientCounters& counters, std::ostream& out) {
  Table table({{""},
               {"PIECES", true},
               {"OF", true},
               {"GB/s", true},
               {"p50", true},
               {"p99", true},
               {"FAILED", true}});
  const auto add = [&table](const char* name, const Run& run) {
    table.AddRow({name, absl::StrCat(run.seconds.size()), FormatBytes(run.piece_bytes),
                  absl::StrFormat("%.2f", run.GbPerSecond()),
                  absl::StrFormat("%.2f ms", run.PercentileMs(0.5)),
                  absl::StrFormat("%.2f ms", run.PercentileMs(0.99)), absl::StrCat(run.failed)});
  };
  add("put", bench.put());
  add("get", bench.get());
  table.Print(out);
  out << "\nread from shared memory: " << FormatBytes(counters.shm_bytes) << " of "
      << FormatBytes(counters.fetched_bytes) << '\n';
}

absl::Status CheckFlags() {
  const uint64_t slice_bytes = absl::GetFlag(FLAGS_bytes).bytes;
  const uint32_t layers = absl::GetFlag(FLAGS_layers);
  if (slice_bytes == 0 || layers == 0 || slice_bytes > kMostPieceBytes / layers) {
    return absl::InvalidArgumentError(absl::StrCat("--bytes times --layers must be from 1 byte to ",
                                                   FormatBytes(kMostPieceBytes)));
  }
  const double seconds = absl::GetFlag(FLAGS_seconds);
  if (!(seconds > 0 && seconds <= 3600)) {
    return absl::InvalidArgumentError("--seconds must be more than 0 and at most 3600");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Outcome> RunBench(const Session& session) {
  RETURN_IF_ERROR(CheckFlags());
  // The client turns failures into misses; a question of our own says what is wrong.
  RETURN_IF_ERROR(session.connection
                      .Call(&Connection::Stub::GetCapabilities, cache::v1::GetCapabilitiesRequest())
                      .status());
  CacheAddress address = session.connection.address();
  address.shared_memory = absl::GetFlag(FLAGS_shared_memory);
  ASSIGN_OR_RETURN(const std::unique_ptr<CacheClient> client, MakeCacheClient(address));
  ASSIGN_OR_RETURN(const std::unique_ptr<Connection> cleaner,
                   Connection::Make(address, session.connection.timeout(), nullptr));
  Bench bench(client.get(), cleaner.get(), absl::GetFlag(FLAGS_layers),
              absl::GetFlag(FLAGS_bytes).bytes);
  const absl::Duration time = absl::Seconds(absl::GetFlag(FLAGS_seconds));
  const absl::Status put = bench.Put(time, session.interrupt);
  if (put.ok()) bench.Get(time, session.interrupt);
  RETURN_IF_ERROR(bench.Clean());
  RETURN_IF_ERROR(put);
  const ClientCounters counters = client->counters();
  if (session.json) {
    session.out << boost::json::object({{"put", RunToJson(bench.put())},
                                        {"get", RunToJson(bench.get())},
                                        {"fetched_bytes", counters.fetched_bytes},
                                        {"shm_bytes", counters.shm_bytes}})
                << '\n';
  } else {
    PrintRuns(bench, counters, session.out);
  }
  if (session.interrupt.requested()) return absl::CancelledError("interrupted");
  return bench.put().failed + bench.get().failed == 0 ? Outcome::kDone : Outcome::kPartly;
}

}  // namespace tessera::ctl
