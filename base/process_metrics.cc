#include "base/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/metric_samples.h"
#include "base/version.h"

namespace tessera {
namespace {

std::string ReadWhole(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// When the machine was started, seconds since 1970.
std::optional<double> BootSeconds() {
  for (absl::string_view line : absl::StrSplit(ReadWhole("/proc/stat"), '\n')) {
    double seconds = 0;
    if (absl::ConsumePrefix(&line, "btime ") && absl::SimpleAtod(line, &seconds)) return seconds;
  }
  return std::nullopt;
}

std::optional<double> OpenFiles() {
  std::error_code error;
  std::filesystem::directory_iterator entry("/proc/self/fd", error);
  double count = 0;
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) ++count;
  // One of them is the folder itself, open while it is read.
  return error ? std::nullopt : std::optional(count - 1);
}

void AddStat(MetricSamples* samples) {
  const std::optional<ProcessStat> stat =
      ParseProcessStat(ReadWhole("/proc/self/stat"), static_cast<double>(sysconf(_SC_CLK_TCK)),
                       static_cast<double>(sysconf(_SC_PAGESIZE)));
  if (!stat) return;
  samples->Counter("process_cpu_seconds", "User and system CPU time.", stat->cpu_seconds);
  if (const std::optional<double> boot = BootSeconds()) {
    samples->Gauge("process_start_time_seconds", "When the process started, since 1970.",
                   *boot + stat->started_seconds);
  }
  samples->Gauge("process_resident_memory_bytes", "Memory that is in RAM.", stat->resident_bytes);
  samples->Gauge("process_virtual_memory_bytes", "Address space.", stat->virtual_bytes);
  samples->Gauge("process_threads", "Threads.", stat->threads);
}

void AddFiles(MetricSamples* samples) {
  if (const std::optional<double> open = OpenFiles()) {
    samples->Gauge("process_open_fds", "Open file descriptors.", *open);
  }
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    samples->Gauge("process_max_fds", "How many may be open.", static_cast<double>(limit.rlim_cur));
  }
}

}  // namespace

std::vector<MetricSample> ProcessSamples(const std::string& program) {
  MetricSamples samples("");
  samples.Gauge(
      "tessera_build_info", "1, of the build that runs.", 1,
      {{"program", program}, {"version", std::string(kVersion)}, {"compiler", __VERSION__}});
  AddStat(&samples);
  AddFiles(&samples);
  return samples.Take();
}

std::optional<ProcessStat> ParseProcessStat(absl::string_view line, double ticks_per_second,
                                            double page_bytes) {
  // The second field is the program's name in brackets, which may have any characters in it.
  const size_t name_end = line.rfind(')');
  if (name_end == absl::string_view::npos) return std::nullopt;
  const std::vector<absl::string_view> fields =
      absl::StrSplit(line.substr(name_end + 1), absl::ByAnyChar(" \n"), absl::SkipEmpty());
  // proc(5) counts from 1, and the first here is its third.
  auto field = [&fields](size_t number, double* value) {
    return number - 3 < fields.size() && absl::SimpleAtod(fields[number - 3], value);
  };
  ProcessStat stat;
  double user = 0, system = 0, started = 0, pages = 0;
  if (!field(14, &user) || !field(15, &system) || !field(20, &stat.threads) ||
      !field(22, &started) || !field(23, &stat.virtual_bytes) || !field(24, &pages)) {
    return std::nullopt;
  }
  stat.cpu_seconds = (user + system) / ticks_per_second;
  stat.started_seconds = started / ticks_per_second;
  stat.resident_bytes = pages * page_bytes;
  return stat;
}

}  // namespace tessera
