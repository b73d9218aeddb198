// The real cache server under mixed work for minutes or hours: every byte that comes is compared,
// and what the server holds (memory, descriptors, pins, leases, streams) is watched from outside.
//
//   bazel run //tests/bench:cache_soak -- --minutes=10
//
// Prints a line every 30 s, at the end what was done and what was checked, and last one line of
// JSON. Exit code 1: a check failed. Ctrl-C ends it early, with all checks.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/process.h"
#include "glog/logging.h"
#include "tests/bench/child_process.h"
#include "tests/bench/soak_client.h"
#include "tests/bench/soak_samples.h"

ABSL_FLAG(double, minutes, 10, "how long; above 0");
ABSL_FLAG(int, clients, 8, "threads that work, half of them over shared memory; 1 to 64");
ABSL_FLAG(std::string, server, "", "the program; default: what Bazel built");
ABSL_FLAG(std::string, server_log, "", "file for what it says; default: thrown away");
ABSL_FLAG(uint32_t, seed, 1, "of the first client; others follow. Below 4096");
ABSL_FLAG(double, warm_up, 0.3,
          "share of the run after which memory at work is reported; below 0.6");
ABSL_FLAG(std::string, client_of, "", "internal: only be a client of this address, until killed");

namespace tessera::bench {
namespace {

constexpr absl::Duration kLease = absl::Seconds(2);
constexpr absl::Duration kSampleEvery = absl::Seconds(5);
constexpr int kSamplesPerLine = 6;
constexpr absl::Duration kIdleWithin = absl::Seconds(30);
// The work is cut into laps with a rest after each; the first two fill every cache. In a rest the
// server has the time to give free memory back, which it does every half minute.
constexpr int kLaps = 4;
constexpr absl::Duration kGivesBackWithin = absl::Seconds(35);
constexpr double kMostGrowth = 0.02;
// What gRPC may open once and keep. There are many times as many clients in every soak.
constexpr uint64_t kMostMoreDescriptors = 4;
// Seeds of processes that are killed stand behind those of threads.
constexpr uint32_t kFirstKilledSeed = 4096;
constexpr uint32_t kKilledSeeds = 4096;

// False: the user wants the end before `time`.
bool WaitUntil(absl::Time time) {
  sigset_t stops;
  sigemptyset(&stops);
  sigaddset(&stops, SIGINT);
  sigaddset(&stops, SIGTERM);
  while (absl::Now() < time) {
    const timespec left = absl::ToTimespec(time - absl::Now());
    if (sigtimedwait(&stops, nullptr, &left) > 0) return false;
  }
  return true;
}

std::vector<std::string> ServerCommand(const std::string& disk) {
  const std::string given = absl::GetFlag(FLAGS_server);
  return {given.empty() ? BuiltServer() : given,
          "--listen=127.0.0.1:0",
          "--ram_bytes=268435456",
          absl::StrCat("--disk_folder=", disk),
          "--disk_bytes=1073741824",
          "--disk_write_buffer_bytes=16777216",
          "--admission=all",
          absl::StrCat("--lease=", absl::FormatDuration(kLease)),
          "--flush_interval=5s"};
}

class Soak {
 public:
  Soak();

  // All of it. False: a check failed.
  bool Run();

 private:
  void Work();
  void KillClients();
  void Sample();
  void CheckAll(const SoakSample& idle, int exit_code);
  void CheckMemory();
  void Check(const std::string& what, bool ok, const std::string& seen);
  void CheckNone(const std::string& what) {
    Check("no " + what, tally_.count(what) == 0, absl::StrCat(tally_.count(what)));
  }
  void CheckSome(const std::string& what) {
    Check("some " + what, tally_.count(what) > 0, absl::StrCat(tally_.count(what)));
  }
  void PrintTally() const;
  void PrintJson(const SoakSample& idle) const;

  const ScratchFolder folder_{std::filesystem::temp_directory_path()};
  const std::string disk_ = folder_.path() + "/disk";
  std::unique_ptr<ChildProcess> server_;
  std::string address_;
  std::unique_ptr<SoakSamples> samples_;
  SoakTally tally_;
  std::atomic<bool> stop_ = false;
  std::vector<double> idle_bytes_;  // of the server's own memory, after each lap
  int failed_ = 0;
};

Soak::Soak() {
  std::string log = absl::GetFlag(FLAGS_server_log);
  if (log.empty()) log = folder_.path() + "/log";
  server_ = std::make_unique<ChildProcess>(ServerCommand(disk_), log);
  const std::string ready = server_->WaitForLine("event=ready", absl::Seconds(60));
  const std::string mark = " port=";
  CHECK(!ready.empty()) << "the server did not become ready; see --server_log";
  address_ = absl::StrCat("127.0.0.1:", std::atoi(ready.c_str() + ready.find(mark) + mark.size()));
  samples_ = std::make_unique<SoakSamples>(server_->pid(), disk_, address_);
}

bool Soak::Run() {
  absl::PrintF("%s\n", samples_->Take().ToLine());
  SoakSample idle;
  for (int lap = 0; lap < kLaps; ++lap) {
    stop_ = false;
    Work();
    idle = samples_->AwaitIdle(kIdleWithin);
    // What it needed for its work is free by now, and it gives free memory back in this time.
    const absl::Time end = absl::Now() + kGivesBackWithin;
    double least = static_cast<double>(idle.process.anonymous_bytes);
    while (absl::Now() < end) {
      absl::SleepFor(absl::Seconds(1));
      idle = samples_->Look();
      least = std::min(least, static_cast<double>(idle.process.anonymous_bytes));
    }
    idle_bytes_.push_back(least);
    absl::PrintF("%s\nidle after lap %d: least %.1f MB; %s\n", idle.ToLine(), lap + 1, least / 1e6,
                 idle.Memory().ToLine());
  }
  PrintTally();
  const int exit_code = server_->Stop(SIGTERM);
  CheckAll(idle, exit_code);
  PrintJson(idle);
  return failed_ == 0;
}

void Soak::Work() {
  std::vector<std::thread> threads;
  for (int i = 0; i < absl::GetFlag(FLAGS_clients); ++i) {
    threads.emplace_back([this, i] {
      const SoakOptions options = {.address = address_,
                                   .shared_memory = i % 2 == 0,
                                   .lease = kLease,
                                   .seed = absl::GetFlag(FLAGS_seed) + i};
      SoakClient(options, &tally_).Run(stop_);
    });
  }
  threads.emplace_back([this] { KillClients(); });
  Sample();
  stop_ = true;
  for (std::thread& thread : threads) thread.join();
}

// Processes that hold leases and streams, and go without a word.
void Soak::KillClients() {
  std::mt19937 random(absl::GetFlag(FLAGS_seed));
  for (uint32_t killed = 0; !stop_; ++killed) {
    ChildProcess client({"/proc/self/exe", "--client_of=" + address_,
                         absl::StrCat("--seed=", kFirstKilledSeed + killed % kKilledSeeds)},
                        folder_.path() + "/client_log");
    const absl::Duration life = absl::Milliseconds(300 + random() % 4000);
    const std::string line = client.WaitForLine(kSoakViolation, life);
    if (!line.empty()) {
      tally_.Add("violations in killed clients");
      LOG(ERROR) << "a client process says: " << line;
    }
    if (client.Stop(SIGKILL) != -SIGKILL) tally_.Add("client processes that ended by themselves");
    tally_.Add("client processes killed");
  }
}

void Soak::Sample() {
  const absl::Time end = absl::Now() + absl::GetFlag(FLAGS_minutes) * absl::Minutes(1) / kLaps;
  absl::Time next = absl::Now();
  for (int taken = 1; next < end; ++taken) {
    next = std::min(next + kSampleEvery, end);
    if (!WaitUntil(next)) return;
    const SoakSample& sample = samples_->Take();
    if (taken % kSamplesPerLine == 0) absl::PrintF("%s\n", sample.ToLine());
    fflush(stdout);
  }
}

void Soak::Check(const std::string& what, bool ok, const std::string& seen) {
  absl::PrintF("%-6s %-52s %s\n", ok ? "ok" : "FAILED", what, seen);
  if (!ok) ++failed_;
}

void Soak::CheckAll(const SoakSample& idle, int exit_code) {
  CheckNone(kWrongBytes);
  CheckNone(kUnfinishedSeen);
  CheckNone(kDeletedSeen);
  CheckNone(kChecksumFailures);
  CheckNone(kFailedCalls);
  CheckNone("violations in killed clients");
  CheckNone("client processes that ended by themselves");
  // It was a soak of all that it is meant to soak.
  CheckSome("hits in ram");
  CheckSome("hits in rocksdb");
  CheckSome("misses");
  CheckSome("client: bytes from shared memory");
  CheckSome("leases lost by stalling");
  for (const auto& [name, value] : idle.stats.counters()) {
    if (name.find("checksum_failures") == std::string::npos &&
        name.find("tier_errors") == std::string::npos) {
      continue;
    }
    Check("server: no " + name, value == 0, absl::StrCat(value));
  }
  Check("idle when all are gone", idle.IsIdle(), idle.IsIdle() ? "" : idle.ToLine());
  const uint64_t before = samples_->first().process.descriptors;
  Check("no descriptors left open", idle.process.descriptors <= before + kMostMoreDescriptors,
        absl::StrCat(idle.process.descriptors, ", before the first client ", before));
  CheckMemory();
  Check("ends with 0", exit_code == 0, absl::StrCat(exit_code));
}

// While it works, what the calls of the moment need comes and goes; what is left of them when
// nobody is there should be as much after the last lap as after the second, when all caches are
// filled.
void Soak::CheckMemory() {
  const double early = idle_bytes_[1];
  const double late = idle_bytes_.back();
  Check("memory when idle grows by at most 2 %", late <= (1 + kMostGrowth) * early,
        absl::StrFormat("%.2f %%: %.1f MB, at the end %.1f MB", 100 * (late / early - 1),
                        early / 1e6, late / 1e6));
}

void Soak::PrintTally() const {
  for (const auto& [what, count] : tally_.counts()) absl::PrintF("%-44s %14d\n", what, count);
}

void Soak::PrintJson(const SoakSample& idle) const {
  const MemoryTrend trend = samples_->Trend(absl::GetFlag(FLAGS_warm_up));
  std::string json = absl::StrFormat(
      "{\"bench\": \"cache_soak\", \"minutes\": %.2f, \"failed_checks\": %d, "
      "\"idle_early_mb\": %.2f, \"idle_late_mb\": %.2f, \"working_early_mb\": %.2f, "
      "\"working_late_mb\": %.2f, \"descriptors_idle\": %d, \"threads_idle\": %d",
      idle.seconds / 60, failed_, idle_bytes_[1] / 1e6, idle_bytes_.back() / 1e6,
      trend.early_bytes / 1e6, trend.late_bytes / 1e6, idle.process.descriptors,
      idle.process.threads);
  for (const auto& [what, count] : tally_.counts()) {
    absl::StrAppend(&json, ", \"", what, "\": ", count);
  }
  absl::PrintF("%s}\n", json);
}

void CheckFlags() {
  CHECK_GT(absl::GetFlag(FLAGS_minutes), 0) << "--minutes must be above 0";
  const int clients = absl::GetFlag(FLAGS_clients);
  CHECK(clients >= 1 && clients <= 64) << "--clients must be 1 to 64";
  CHECK_LE(absl::GetFlag(FLAGS_seed) + clients, kFirstKilledSeed) << "--seed is too large";
  const double warm_up = absl::GetFlag(FLAGS_warm_up);
  CHECK(warm_up >= 0 && warm_up < 0.6) << "--warm_up must be at least 0 and below 0.6";
}

int BeClient() {
  SoakTally tally;
  const std::atomic<bool> stop = false;
  SoakClient({.address = absl::GetFlag(FLAGS_client_of),
              .shared_memory = absl::GetFlag(FLAGS_seed) % 4 != 0,
              .lease = kLease,
              .seed = absl::GetFlag(FLAGS_seed)},
             &tally)
      .Run(stop);
  return 0;
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  if (!absl::GetFlag(FLAGS_client_of).empty()) return tessera::bench::BeClient();
  tessera::bench::CheckFlags();
  return tessera::bench::Soak().Run() ? 0 : 1;
}
