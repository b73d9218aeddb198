// How fast slices of shared memory are verified: by one thread, and by a client's verifiers for a
// reader that only asks; and what the reader's thread itself has to do for that.
//
//   bazel run -c opt //tests/bench:verify_bench -- --pieces=8
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/time/clock.h"
#include "base/auto_reset_event.h"
#include "base/process.h"
#include "cache_server/chunk/checksum.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/client/slice_verifiers.h"
#include "glog/logging.h"
#include "tests/bench/made_up.h"
#include "tests/cache_server/testing/server_fixture.h"
#include "tests/cache_server/testing/shared_server.h"

ABSL_FLAG(uint32_t, pieces, 8, "Pieces of a fetch.");
ABSL_FLAG(uint32_t, layers, 32, "Slices of a piece.");
ABSL_FLAG(uint64_t, slice_bytes, uint64_t{1} << 20, "Bytes of a slice.");
ABSL_FLAG(int, rounds, 7, "Fetches; the median is printed.");

namespace tessera::testing {
namespace {

double ThreadSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

struct Took {
  double seconds = 0;
  double reader_seconds = 0;  // of the processor
};

// Layer by layer, as a blend reads.
Took ReadAll(CacheClient* client, const std::vector<FetchTarget>& targets) {
  AutoResetEvent progress;
  const absl::Time start = absl::Now();
  const double before = ThreadSeconds();
  const auto stream = client->Fetch(
      targets, {.timeout = absl::Minutes(1), .on_progress = [&] { progress.Signal(); }});
  for (uint32_t layer = 0; layer < targets[0].layers; ++layer) {
    for (size_t i = 0; i < targets.size(); ++i) {
      while (!stream->SliceReady(i, layer)) progress.Await(stream->ready_by());
      CHECK(stream->WaitForSlice(i, layer));
    }
  }
  CHECK(stream->LeaseHeld());
  return {absl::ToDoubleSeconds(absl::Now() - start), ThreadSeconds() - before};
}

void Print(const char* what, CacheClient* client, const std::vector<FetchTarget>& targets) {
  std::vector<double> seconds, reader;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
    const Took took = ReadAll(client, targets);
    seconds.push_back(took.seconds);
    reader.push_back(took.reader_seconds);
  }
  const double bytes = static_cast<double>(targets.size()) * targets[0].layers *
                       static_cast<double>(targets[0].slice_bytes);
  std::printf("%-28s %6.1f GB/s, the reader's thread %6.2f ms a GiB\n", what,
              bytes / Median(seconds) * 1e-9, Median(reader) * 1e3 / (bytes / (1 << 30)));
}

void Run() {
  const PieceShape shape = {.layers = absl::GetFlag(FLAGS_layers),
                            .slice_bytes = absl::GetFlag(FLAGS_slice_bytes)};
  const uint32_t pieces = absl::GetFlag(FLAGS_pieces);
  SharedServer server((pieces + 2) * shape.bytes());
  for (uint32_t number = 0; number < pieces; ++number) server.Put(number, shape);
  server.Start();
  auto client = MakeCacheClient({.address = server.address()});
  CHECK(client.ok()) << client.status();
  PieceMemory probe(1u << 30, 1, {.layers = 1, .slice_bytes = 8});
  (*client)->Store(probe.Sources(), absl::Seconds(10));

  std::vector<double> alone;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
    const absl::Time start = absl::Now();
    uint64_t sum = 0;
    for (uint64_t at = 0; at < pieces * shape.bytes(); at += shape.slice_bytes) {
      sum += SliceChecksum({server.memory().data() + at, shape.slice_bytes});
    }
    CHECK_NE(sum, 0u);
    alone.push_back(absl::ToDoubleSeconds(absl::Now() - start));
  }
  std::printf("%-28s %6.1f GB/s\n", "checksums, one thread",
              static_cast<double>(pieces * shape.bytes()) / Median(alone) * 1e-9);

  std::printf("%d verifiers\n", SliceVerifiers::DefaultThreads());
  std::vector<FetchTarget> in_place;
  for (uint32_t i = 0; i < pieces; ++i) {
    in_place.push_back({TestKey(i), shape.layers, shape.slice_bytes});
  }
  Print("fetched in place", client->get(), in_place);
  PieceMemory memory(0, pieces, shape);
  Print("fetched into memory", client->get(), memory.Targets());
}

}  // namespace
}  // namespace tessera::testing

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  tessera::testing::Run();
}
