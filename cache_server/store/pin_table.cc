#include "cache_server/store/pin_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"

namespace tessera {

PinTable::PinTable(const PinOptions& options) : options_(options), thread_([this] { Loop(); }) {}

PinTable::~PinTable() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

absl::Status PinTable::CheckTtl(absl::Duration ttl) const {
  if (ttl > absl::ZeroDuration() && ttl <= options_.longest_ttl) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a pin lasts more than 0 and at most ",
                                                 absl::FormatDuration(options_.longest_ttl),
                                                 ", not ", absl::FormatDuration(ttl)));
}

absl::Status PinTable::Pin(const ChunkKey& key, ReadHandle handle, absl::Duration ttl) {
  RETURN_IF_ERROR(CheckTtl(ttl));
  const absl::Time end = absl::Now() + ttl;
  const uint64_t bytes = handle.shape().bytes();
  absl::MutexLock lock(&mutex_);
  const auto found = held_.find(key);
  if (found == held_.end() && (bytes > options_.most_bytes || bytes_ > options_.most_bytes - bytes)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("pins hold ", bytes_, " of ", options_.most_bytes,
                     " bytes; unpin something, or raise the server's limit"));
  }
  const auto end_position = ends_.emplace(end, key);
  if (found == held_.end()) {
    bytes_ += bytes;
    held_.try_emplace(key, Held{std::move(handle), end_position});
  } else {
    ends_.erase(std::exchange(found->second.end, end_position));
  }
  changed_ = true;
  return absl::OkStatus();
}

bool PinTable::Unpin(const ChunkKey& key) {
  absl::MutexLock lock(&mutex_);
  if (!held_.contains(key)) return false;
  Drop(key);
  return true;
}

void PinTable::Drop(const ChunkKey& key) {
  const auto found = held_.find(key);
  bytes_ -= found->second.handle.shape().bytes();
  ends_.erase(found->second.end);
  held_.erase(found);
}

bool PinTable::IsPinned(const ChunkKey& key) const {
  absl::MutexLock lock(&mutex_);
  return held_.contains(key);
}

absl::Duration PinTable::Remaining(const ChunkKey& key, absl::Time now) const {
  absl::MutexLock lock(&mutex_);
  const auto found = held_.find(key);
  if (found == held_.end() || found->second.end->first <= now) return absl::ZeroDuration();
  return found->second.end->first - now;
}

size_t PinTable::size() const {
  absl::MutexLock lock(&mutex_);
  return held_.size();
}

uint64_t PinTable::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

void PinTable::Loop() {
  absl::MutexLock lock(&mutex_);
  auto woken = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || changed_; };
  while (!stopping_) {
    changed_ = false;
    const absl::Time now = absl::Now();
    while (!ends_.empty() && ends_.begin()->first <= now) {
      const ChunkKey ended = ends_.begin()->second;
      Drop(ended);
    }
    const absl::Time next = ends_.empty() ? absl::InfiniteFuture() : ends_.begin()->first;
    mutex_.AwaitWithDeadline(absl::Condition(&woken), next);
  }
}

}  // namespace tessera
