#include "gpu_worker/blend/chunk_pool.h"

#include <utility>

#include "glog/logging.h"

namespace tessera {

ChunkPool::ChunkPool(int64_t limit_bytes) {
  CHECK_GE(limit_bytes, 0);
  stats_.limit_bytes = limit_bytes;
}

ChunkPool::~ChunkPool() { CHECK(loads_.empty()) << "a load outlives its pool"; }

std::shared_ptr<const RawChunk> ChunkPool::Find(const ChunkKey& key) {
  absl::MutexLock lock(&mutex_);
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return nullptr;
  residents_.splice(residents_.begin(), residents_, found->second);
  ++stats_.hits;
  stats_.hit_bytes += residents_.front().chunk->bytes();
  return residents_.front().chunk;
}

bool ChunkPool::Holds(const ChunkKey& key) const {
  absl::MutexLock lock(&mutex_);
  return by_key_.contains(key);
}

void ChunkPool::Keep(const ChunkKey& key, uint64_t chunk_hash,
                     std::shared_ptr<const RawChunk> chunk) {
  const int64_t bytes = chunk->bytes();
  std::vector<uint64_t> evicted;
  {
    absl::MutexLock lock(&mutex_);
    if (bytes > stats_.limit_bytes || by_key_.contains(key)) return;
    evicted = EvictTo(stats_.limit_bytes - bytes);
    residents_.push_front({key, chunk_hash, std::move(chunk)});
    by_key_[key] = residents_.begin();
    stats_.resident_bytes += bytes;
    ++stats_.resident_chunks;
    ++stats_.kept;
  }
  for (const uint64_t gone : evicted) told_.Remove(gone);
  told_.Add(chunk_hash);
}

std::vector<uint64_t> ChunkPool::EvictTo(int64_t bytes) {
  std::vector<uint64_t> evicted;
  while (stats_.resident_bytes > bytes) {
    const Resident& last = residents_.back();
    stats_.resident_bytes -= last.chunk->bytes();
    --stats_.resident_chunks;
    ++stats_.evictions;
    evicted.push_back(last.chunk_hash);
    by_key_.erase(last.key);
    residents_.pop_back();
  }
  return evicted;
}

std::shared_ptr<ChunkLoad> ChunkPool::FindLoad(const ChunkKey& key) {
  const auto found = loads_.find(key);
  if (found == loads_.end()) return nullptr;
  absl::MutexLock lock(&mutex_);
  ++stats_.joined;
  return found->second.lock();
}

void ChunkPool::AddLoad(const ChunkKey& key, const std::shared_ptr<ChunkLoad>& load) {
  CHECK(loads_.emplace(key, load).second) << "two loads of one chunk";
  absl::MutexLock lock(&mutex_);
  ++stats_.misses;
}

void ChunkPool::RemoveLoad(const ChunkKey& key) { loads_.erase(key); }

void ChunkPool::Progress() {
  progress_.Signal();
  if (on_progress_) on_progress_();
}

ChunkPoolStats ChunkPool::stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

}  // namespace tessera
