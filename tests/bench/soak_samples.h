// What a soak sees of its server from outside, over time.
#ifndef TESSERA_TESTS_BENCH_SOAK_SAMPLES_H_
#define TESSERA_TESTS_BENCH_SOAK_SAMPLES_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/kv_cache.grpc.pb.h"
#include "tests/bench/child_process.h"

namespace tessera::bench {

// What the server's own memory, which is that of no tier, consists of.
struct OwnMemory {
  double anonymous = 0;    // all of it, as the system counts it: the sum of what follows
  double table_cache = 0;  // blocks of RocksDB's tables, up to a bound
  double tables = 0;       // RocksDB's open tables
  double memtables = 0;    // pieces in no file yet
  double other_heap = 0;   // whatever else is in use
  double rest = 0;         // heap that is free and not given back, stacks, static data

  std::string ToLine() const;
};

struct SoakSample {
  double seconds = 0;  // since the start
  ProcessFigures process;
  cache::v1::StatsResponse stats;  // empty when the server did not answer
  bool answered = false;

  // Whether nobody uses the server, and it has nothing left to do.
  bool IsIdle() const;
  std::string ToLine() const;
  OwnMemory Memory() const;
};

// How the server's own memory (not that of the memory tier, which is shared) went after warm-up.
struct MemoryTrend {
  double early_bytes = 0;     // least in the fifth of the run after warm-up
  double late_bytes = 0;      // least in its last fifth
  double bytes_per_hour = 0;  // slope of the line through all samples after warm-up

  double growth() const { return early_bytes > 0 ? late_bytes / early_bytes - 1 : 0; }
};

// For one thread.
class SoakSamples {
 public:
  // Of the server `pid` at `address`, whose disk tier is in `folder`.
  SoakSamples(pid_t pid, std::string folder, const std::string& address);

  SoakSample Look();
  // Looks, and remembers it.
  const SoakSample& Take();
  // Looks until the server is idle, or `timeout` is over; the last look.
  SoakSample AwaitIdle(absl::Duration timeout);

  // `warm_up` is a share of the time from the first sample to the last.
  MemoryTrend Trend(double warm_up) const;
  // Of those taken.
  const SoakSample& first() const { return samples_.front(); }

 private:
  const pid_t pid_;
  const std::string folder_;
  const absl::Time start_;
  const std::unique_ptr<cache::v1::KvCache::Stub> stub_;
  std::vector<SoakSample> samples_;
};

}  // namespace tessera::bench

#endif  // TESSERA_TESTS_BENCH_SOAK_SAMPLES_H_
