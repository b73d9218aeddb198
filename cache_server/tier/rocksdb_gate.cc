#include "cache_server/tier/rocksdb_gate.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "cache_server/tier/rocksdb_folder.h"

namespace tessera {
namespace {

constexpr absl::Duration kLookEvery = absl::Seconds(1);
constexpr absl::Duration kLookEveryWhenClosed = absl::Milliseconds(100);
constexpr uint64_t kLookAfterBytes = uint64_t{64} << 20;
constexpr absl::Duration kRetryEvery = absl::Seconds(3);

}  // namespace

absl::Status WriteGate::Admit(uint64_t bytes, uint64_t memory_bytes) {
  absl::MutexLock lock(&mutex_);
  Look(bytes);
  // What was admitted since the look is either in memory still, or in files that were not seen.
  const uint64_t coming = bytes + std::max(memory_bytes, admitted_since_);
  // Once closed, it opens later than it closed: no log line for every piece at the limit.
  const uint64_t floor_margin = state_ == State::kFloor ? options_.free_floor_bytes / 32 : 0;
  const uint64_t most = state_ == State::kFull ? options_.reopen_bytes : options_.full_bytes;
  if (failed_) {
    Change(State::kFailed, error_);
  } else if (free_bytes_ < options_.free_floor_bytes + floor_margin + coming) {
    Change(State::kFloor, absl::StrCat(free_bytes_, " bytes free, ", coming, " to be written, ",
                                       options_.free_floor_bytes, " must stay free"));
  } else if (folder_bytes_ + coming > most) {
    Change(State::kFull, absl::StrCat("the folder has ", folder_bytes_, " bytes, ", coming,
                                      " to be written, ", most, " allowed"));
  } else {
    Change(State::kOpen, "");
    admitted_since_ += bytes;
    return absl::OkStatus();
  }
  ++refused_[static_cast<size_t>(state_)];
  return absl::ResourceExhaustedError(
      absl::StrCat("no writes to ", options_.folder, " now: ", error_));
}

void WriteGate::Look(uint64_t bytes) {
  const absl::Time now = absl::Now();
  const bool open = state_ == State::kOpen;
  const uint64_t look_after = std::min(kLookAfterBytes, options_.full_bytes / 64);
  if (now - looked_ < (open ? kLookEvery : kLookEveryWhenClosed) &&
      !(open && admitted_since_ + bytes > look_after)) {
    return;
  }
  looked_ = now;
  admitted_since_ = 0;
  folder_bytes_ = FolderBytes(options_.folder);
  const absl::StatusOr<uint64_t> free = FreeBytes(options_.folder);
  free_bytes_ = free.ok() ? *free : 0;
}

void WriteGate::Change(State state, const std::string& why) {
  error_ = why;
  if (state == state_) return;
  static constexpr const char* kNames[] = {"open", "disk_failed", "free_floor", "folder_full"};
  LOG_EVENT(kWarning, "disk_writes")
      .With("state", kNames[static_cast<size_t>(state)])
      .With("folder", options_.folder)
      .With("why", why);
  state_ = state;
}

void WriteGate::Fail(const std::string& error) {
  absl::MutexLock lock(&mutex_);
  ++failures_;
  if (!failed_) last_try_ = absl::Now();
  failed_ = true;
  Change(State::kFailed, error);
}

void WriteGate::Recovered() {
  absl::MutexLock lock(&mutex_);
  if (!failed_) return;
  failed_ = false;
  Change(State::kOpen, "");
}

bool WriteGate::ShouldRetry() {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = absl::Now();
  if (!failed_ || now - last_try_ < kRetryEvery) return false;
  last_try_ = now;
  return true;
}

uint64_t WriteGate::folder_bytes() const {
  absl::MutexLock lock(&mutex_);
  return folder_bytes_;
}

void WriteGate::AddFigures(std::vector<std::pair<std::string, double>>* figures) const {
  const absl::StatusOr<uint64_t> free = FreeBytes(options_.folder);
  figures->emplace_back("folder_bytes", FolderBytes(options_.folder));
  figures->emplace_back("free_bytes", free.ok() ? *free : 0);
  absl::MutexLock lock(&mutex_);
  figures->emplace_back("failed", failed_ ? 1 : 0);
  figures->emplace_back("failures", failures_);
  figures->emplace_back("refused_failed", refused_[static_cast<size_t>(State::kFailed)]);
  figures->emplace_back("refused_floor", refused_[static_cast<size_t>(State::kFloor)]);
  figures->emplace_back("refused_full", refused_[static_cast<size_t>(State::kFull)]);
}

}  // namespace tessera
