#include "cache_server/store/write_behind.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace tessera {

void FillFrom(const ReadHandle& piece, WriteHandle* room) {
  for (uint32_t layer = 0; layer < piece.layers(); ++layer) {
    const auto slice = piece.slice(layer);
    std::memcpy(room->slice(layer).data(), slice.data(), slice.size());
    room->set_checksum(layer, piece.checksum(layer));
  }
}

absl::StatusOr<ReadHandle> CopyPiece(const ChunkKey& key, const ReadHandle& piece, Tier* tier) {
  ASSIGN_OR_RETURN(WriteHandle room, tier->Allocate(key, piece.shape(), piece.tenant()));
  FillFrom(piece, &room);
  return tier->Commit(std::move(room));
}

WriteBehind::WriteBehind(std::vector<Tier*> tiers, const WriteBehindOptions& options)
    : tiers_(std::move(tiers)), options_(options) {
  if (!tiers_.empty()) thread_ = std::thread([this] { Loop(); });
}

WriteBehind::~WriteBehind() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

bool WriteBehind::Push(const ChunkKey& key, ReadHandle handle) {
  if (tiers_.empty()) return false;
  const uint64_t bytes = handle.shape().bytes();
  absl::MutexLock lock(&mutex_);
  if (queued_keys_.contains(key)) return true;
  // One piece may always wait, so that a piece larger than the limit is written at all.
  const bool full = counters_.pieces >= options_.most_pieces ||
                    (counters_.pieces > 0 && counters_.bytes + bytes > options_.most_bytes);
  if (stopping_ || full) {
    ++counters_.dropped;
    return false;
  }
  queued_keys_.insert(key);
  queue_.push_back({key, std::move(handle)});
  ++pushed_;
  ++counters_.pieces;
  counters_.bytes += bytes;
  return true;
}

void WriteBehind::Loop() {
  bool unflushed = false;
  absl::Time flush_at = absl::InfiniteFuture();
  while (true) {
    std::optional<Queued> next;
    {
      absl::MutexLock lock(&mutex_);
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !queue_.empty();
      };
      mutex_.AwaitWithDeadline(absl::Condition(&ready), flush_at);
      if (stopping_) return;
      if (!queue_.empty()) {
        next.emplace(std::move(queue_.front()));
        queue_.pop_front();
        writing_ = next->key;
        forgotten_ = false;
      }
    }
    if (next) {
      Write(*next);
      EraseIfForgotten(next->key);
      if (!std::exchange(unflushed, true)) flush_at = absl::Now() + options_.flush_interval;
      Finish(*std::exchange(next, std::nullopt));
    }
    if (unflushed && absl::Now() >= flush_at) {
      // The tier has logged what went wrong; the next interval tries again.
      (void)FlushTiers();
      unflushed = false;
      flush_at = absl::InfiniteFuture();
    }
  }
}

void WriteBehind::Write(const Queued& queued) {
  for (Tier* tier : tiers_) {
    const absl::Status status = CopyPiece(queued.key, queued.handle, tier).status();
    absl::MutexLock lock(&mutex_);
    if (status.ok()) {
      ++counters_.written;
    } else if (!absl::IsAlreadyExists(status)) {
      ++counters_.refused;
    }
  }
}

void WriteBehind::EraseIfForgotten(const ChunkKey& key) {
  {
    absl::MutexLock lock(&mutex_);
    if (!forgotten_) {
      // From here on whoever erases the key finds it in the tiers.
      writing_.reset();
      return;
    }
  }
  for (Tier* tier : tiers_) {
    const absl::Status status = tier->Erase(key);
    if (status.ok()) continue;
    LOG_EVENT_LIMITED(kWarning, "erase_failed").With("key", key.ToHex()).WithError(status);
  }
  absl::MutexLock lock(&mutex_);
  writing_.reset();
}

bool WriteBehind::IsForgotten(const ChunkKey& key) const {
  absl::MutexLock lock(&mutex_);
  return forgotten_ && writing_ == key;
}

void WriteBehind::Finish(Queued queued) {
  const ChunkKey key = queued.key;
  const uint64_t bytes = queued.handle.shape().bytes();
  // No longer pinned, before anyone is told that it is written.
  { const Queued dropped = std::move(queued); }
  absl::MutexLock lock(&mutex_);
  Uncount(key, bytes);
}

void WriteBehind::Uncount(const ChunkKey& key, uint64_t bytes) {
  queued_keys_.erase(key);
  --counters_.pieces;
  counters_.bytes -= bytes;
  ++finished_;
}

void WriteBehind::Forget(const ChunkKey& key) {
  std::optional<Queued> dropped;  // let go after the mutex is
  absl::MutexLock lock(&mutex_);
  if (writing_ == key) forgotten_ = true;
  if (!queued_keys_.contains(key)) return;
  const auto queued = std::find_if(queue_.begin(), queue_.end(),
                                   [&key](const Queued& waiting) { return waiting.key == key; });
  if (queued == queue_.end()) return;
  dropped.emplace(std::move(*queued));
  queue_.erase(queued);
  Uncount(key, dropped->handle.shape().bytes());
}

void WriteBehind::WaitUntilWritten() {
  absl::MutexLock lock(&mutex_);
  const uint64_t all = pushed_;
  auto written = [this, all]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || finished_ >= all;
  };
  mutex_.Await(absl::Condition(&written));
}

absl::Status WriteBehind::Flush() {
  if (tiers_.empty()) return absl::FailedPreconditionError("there is no disk tier");
  WaitUntilWritten();
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return absl::UnavailableError("the store is stopping");
  }
  return FlushTiers();
}

absl::Status WriteBehind::FlushTiers() {
  absl::Status first_error;
  for (Tier* tier : tiers_) first_error.Update(tier->Flush());
  return first_error;
}

WriteBehindCounters WriteBehind::counters() const {
  absl::MutexLock lock(&mutex_);
  return counters_;
}

}  // namespace tessera
