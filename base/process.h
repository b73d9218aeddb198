// What every main() does before it builds its object graph.
#ifndef TESSERA_BASE_PROCESS_H_
#define TESSERA_BASE_PROCESS_H_

#include "absl/time/time.h"

namespace tessera {

// Starts glog to standard error, sets malloc so that large network slices are not mapped and
// trimmed each time (several GB/s of gRPC throughput depend on it), switches Abseil's search for
// deadlocks off (unit tests keep it), ignores SIGPIPE, and blocks SIGINT and SIGTERM for
// WaitForStopSignal. `program` is argv[0]. Call once, before any thread starts.
void StartProcess(const char* program);

// The same, and parses absl flags: an unknown one ends the process and names itself. The three
// servers have no such flags; see base/config/start.h.
void StartProcess(int argc, char** argv);

// From now on SIGUSR1 makes the log say one level more (error, warning, info, debug), SIGUSR2 one
// level less, and an event log_level_changed says so, whatever the level. Call once, before any
// other thread starts.
void StepLogLevelOnSignals();

// Blocks until SIGINT or SIGTERM arrives.
void WaitForStopSignal();

// The same for up to `timeout`. False: none arrived.
bool WaitForStopSignal(absl::Duration timeout);

}  // namespace tessera

#endif  // TESSERA_BASE_PROCESS_H_
