#include "tests/bench/soak_samples.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "tests/bench/soak_client.h"

namespace tessera::bench {
namespace {

// The server gives free memory back now and then: what it needs for what it does at the moment
// comes and goes, and a leak is what raises the least that it ever has.
double Floor(const std::vector<double>& values) {
  return values.empty() ? 0 : *std::min_element(values.begin(), values.end());
}

}  // namespace

bool SoakSample::IsIdle() const {
  return answered && stats.pinned_pieces() == 0 && stats.open_fetches() == 0 &&
         stats.open_stores() == 0 && stats.shm_sessions() == 0 && stats.shm_leases() == 0 &&
         stats.watchers() == 0 && stats.write_queue_pieces() == 0;
}

std::string SoakSample::ToLine() const {
  std::string line = absl::StrFormat(
      "%5.0f s  anonymous %6.1f MB  shared %6.1f MB  descriptors %3d + %2d of the disk  "
      "threads %3d",
      seconds, process.anonymous_bytes / 1e6, process.shared_bytes / 1e6, process.descriptors,
      process.files, process.threads);
  absl::StrAppend(&line, "  pins ", stats.pinned_pieces(), "  leases ", stats.shm_leases(),
                  "  sessions ", stats.shm_sessions(), "  fetches ", stats.open_fetches(),
                  "  stores ", stats.open_stores(), "  watchers ", stats.watchers(), "  queue ",
                  stats.write_queue_pieces());
  for (const cache::v1::TierStats& tier : stats.tiers()) {
    absl::StrAppendFormat(&line, "  %s %d pieces %.0f MB", tier.name(), tier.entries(),
                          tier.used_bytes() / 1e6);
  }
  return answered ? line : line + "  NO ANSWER";
}

std::string OwnMemory::ToLine() const {
  return absl::StrFormat(
      "own memory %.1f MB: table cache %.1f, open tables %.1f, memtables %.1f, other heap in use "
      "%.1f, free heap and the rest %.1f",
      anonymous / 1e6, table_cache / 1e6, tables / 1e6, memtables / 1e6, other_heap / 1e6,
      rest / 1e6);
}

OwnMemory SoakSample::Memory() const {
  const auto gauge = [this](const std::string& name) {
    const auto found = stats.gauges().find("tessera_cache_" + name);
    return found == stats.gauges().end() ? 0.0 : static_cast<double>(found->second);
  };
  const auto of_disk = [&gauge](const std::string& what) {
    return gauge("tier_medium{tier=\"rocksdb\",what=\"" + what + "\"}");
  };
  OwnMemory memory = {.anonymous = static_cast<double>(process.anonymous_bytes),
                      .table_cache = of_disk("table_cache_bytes"),
                      .tables = of_disk("table_reader_bytes"),
                      .memtables = of_disk("memory_bytes")};
  const double in_use = gauge("heap_bytes{part=\"used\"}") + gauge("heap_bytes{part=\"mapped\"}");
  memory.other_heap = in_use - memory.table_cache - memory.tables - memory.memtables;
  memory.rest = memory.anonymous - in_use;
  return memory;
}

SoakSamples::SoakSamples(pid_t pid, std::string folder, const std::string& address)
    : pid_(pid), folder_(std::move(folder)), start_(absl::Now()), stub_(MakeSoakStub(address)) {}

SoakSample SoakSamples::Look() {
  SoakSample sample;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  sample.answered = stub_->Stats(&context, cache::v1::StatsRequest(), &sample.stats).ok();
  sample.seconds = absl::ToDoubleSeconds(absl::Now() - start_);
  sample.process = ReadFigures(pid_, folder_);
  return sample;
}

const SoakSample& SoakSamples::Take() {
  samples_.push_back(Look());
  return samples_.back();
}

SoakSample SoakSamples::AwaitIdle(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  SoakSample last = Look();
  while (!last.IsIdle() && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(200));
    last = Look();
  }
  return last;
}

MemoryTrend SoakSamples::Trend(double warm_up) const {
  if (samples_.empty()) return {};
  const double end = samples_.back().seconds;
  std::vector<double> early, late;
  double count = 0, sum_x = 0, sum_y = 0, sum_xx = 0, sum_xy = 0;
  for (const SoakSample& sample : samples_) {
    const double x = sample.seconds;
    const auto y = static_cast<double>(sample.process.anonymous_bytes);
    if (x < warm_up * end) continue;
    if (x < (warm_up + 0.2) * end) early.push_back(y);
    if (x >= 0.8 * end) late.push_back(y);
    count += 1;
    sum_x += x;
    sum_y += y;
    sum_xx += x * x;
    sum_xy += x * y;
  }
  MemoryTrend trend = {.early_bytes = Floor(early), .late_bytes = Floor(late)};
  const double spread = count * sum_xx - sum_x * sum_x;
  if (spread > 0) trend.bytes_per_hour = 3600 * (count * sum_xy - sum_x * sum_y) / spread;
  return trend;
}

}  // namespace tessera::bench
