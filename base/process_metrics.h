// What Prometheus' own client libraries show of every process, and which build this is.
#ifndef TESSERA_BASE_PROCESS_METRICS_H_
#define TESSERA_BASE_PROCESS_METRICS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/metrics.h"

namespace tessera {

// `tessera_build_info` of `program` ("gateway"), and this process as /proc has it now:
// process_cpu_seconds_total, process_start_time_seconds, process_resident_memory_bytes,
// process_virtual_memory_bytes, process_threads, process_open_fds, process_max_fds. What /proc does
// not say is left out.
std::vector<MetricSample> ProcessSamples(const std::string& program);

// A line of /proc/PID/stat.
struct ProcessStat {
  double cpu_seconds = 0;      // user and system, of all threads
  double started_seconds = 0;  // after the machine
  double virtual_bytes = 0;
  double resident_bytes = 0;
  double threads = 0;
};
// Nothing for what is not such a line. ticks_per_second, page_bytes: the system's.
std::optional<ProcessStat> ParseProcessStat(absl::string_view line, double ticks_per_second,
                                            double page_bytes);

}  // namespace tessera

#endif  // TESSERA_BASE_PROCESS_METRICS_H_
