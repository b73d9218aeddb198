// Whether a RocksDB tier takes writes now.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_GATE_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_GATE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

struct WriteGateOptions {
  std::string folder;
  // Closes when the folder would have more than `full_bytes`; opens when it would have no more than
  // `reopen_bytes`, which are fewer.
  uint64_t full_bytes = 0;
  uint64_t reopen_bytes = 0;
  uint64_t free_floor_bytes = 0;
};

// Logs one line whenever it closes, opens, or closes for another reason; nothing per piece. Looks
// at the file system at most every second while writes pass (more often when they are many bytes),
// and ten times a second while they do not. Thread-safe.
class WriteGate {
 public:
  explicit WriteGate(WriteGateOptions options) : options_(std::move(options)) {}

  // May `bytes` be written, while `memory_bytes` of earlier ones are in no file yet?
  // Errors: RESOURCE_EXHAUSTED.
  absl::Status Admit(uint64_t bytes, uint64_t memory_bytes);

  // The disk failed: closed until Recovered.
  void Fail(const std::string& error);
  void Recovered();
  // True when the disk has failed, and no try to go on was made for some seconds: the caller should
  // make one.
  bool ShouldRetry();

  // As of the last look.
  uint64_t folder_bytes() const;
  void AddFigures(std::vector<std::pair<std::string, double>>* figures) const;

 private:
  enum class State { kOpen, kFailed, kFloor, kFull };

  void Look(uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Change(State state, const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const WriteGateOptions options_;
  mutable absl::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kOpen;
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
  std::string error_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_try_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time looked_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  uint64_t admitted_since_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes, since `looked_`
  uint64_t folder_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t free_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<uint64_t, 4> refused_ ABSL_GUARDED_BY(mutex_) = {};  // by State
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_GATE_H_
