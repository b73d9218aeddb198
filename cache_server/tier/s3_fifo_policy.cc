#include "cache_server/tier/s3_fifo_policy.h"

#include <iterator>

#include "glog/logging.h"

namespace tessera {
namespace {

constexpr uint32_t kMostReads = 3;
constexpr uint32_t kReadsForMain = 2;
constexpr uint64_t kSmallShare = 10;  // one part in ten

}  // namespace

S3FifoPolicy::S3FifoPolicy(uint64_t capacity_bytes) : small_target_(capacity_bytes / kSmallShare) {}

void S3FifoPolicy::Add(const ChunkKey& key, uint64_t bytes) {
  // Until the first eviction nothing is known of any entry. What then does not fit the small queue
  // fills the main one, instead of becoming a small queue of everything.
  const bool warming_up = round_ == 0 && small_bytes_ + bytes > small_target_;
  const bool to_main = ForgetGhost(key) || warming_up;
  Queue& queue = to_main ? main_ : small_;
  queue.push_front({key, bytes, 0, 0, !to_main});
  if (!to_main) small_bytes_ += bytes;
  CHECK(places_.try_emplace(key, queue.begin()).second) << "added twice: " << key.ToHex();
}

void S3FifoPolicy::Touch(const ChunkKey& key) {
  const auto found = places_.find(key);
  if (found == places_.end()) return;
  uint32_t& reads = found->second->reads;
  if (reads < kMostReads) ++reads;
}

void S3FifoPolicy::Remove(const ChunkKey& key) {
  const auto found = places_.find(key);
  if (found != places_.end()) Drop(found->second);
}

void S3FifoPolicy::Drop(Queue::iterator entry) {
  places_.erase(entry->key);
  if (entry->in_small) small_bytes_ -= entry->bytes;
  (entry->in_small ? small_ : main_).erase(entry);
}

std::optional<ChunkKey> S3FifoPolicy::Evict(MayEvict may_evict) {
  ++round_;
  if (small_bytes_ < small_target_) {
    if (const auto key = EvictMain(may_evict)) return key;
  }
  if (const auto key = EvictSmall(may_evict)) return key;
  // Also after a first look at it: the small queue may have moved some there.
  return EvictMain(may_evict);
}

std::optional<ChunkKey> S3FifoPolicy::EvictSmall(MayEvict may_evict) {
  auto behind = small_.end();  // what is from here on stays
  while (behind != small_.begin()) {
    const auto oldest = std::prev(behind);
    if (oldest->reads >= kReadsForMain) {
      oldest->reads = 0;
      oldest->in_small = false;
      small_bytes_ -= oldest->bytes;
      main_.splice(main_.begin(), small_, oldest);
    } else if (MayGo(&*oldest, may_evict)) {
      const ChunkKey key = oldest->key;
      Drop(oldest);
      RememberGhost(key);
      return key;
    } else {
      behind = oldest;
    }
  }
  return std::nullopt;
}

std::optional<ChunkKey> S3FifoPolicy::EvictMain(MayEvict may_evict) {
  auto behind = main_.end();  // what is from here on stays
  // Ends: every step uses up a read of an entry, or passes one over for good.
  while (behind != main_.begin()) {
    const auto oldest = std::prev(behind);
    if (oldest->reads > 0) {
      --oldest->reads;
      main_.splice(main_.begin(), main_, oldest);
    } else if (MayGo(&*oldest, may_evict)) {
      const ChunkKey key = oldest->key;
      Drop(oldest);
      return key;
    } else {
      behind = oldest;
    }
  }
  return std::nullopt;
}

bool S3FifoPolicy::MayGo(Entry* entry, MayEvict may_evict) {
  if (entry->refused == round_) return false;
  entry->refused = round_;
  return may_evict(entry->key);
}

bool S3FifoPolicy::ForgetGhost(const ChunkKey& key) {
  const auto found = ghost_places_.find(key);
  if (found == ghost_places_.end()) return false;
  ghosts_.erase(found->second);
  ghost_places_.erase(found);
  return true;
}

// As many as there are entries. The paper says: as the main queue has; but that one may be empty,
// and would stay so.
void S3FifoPolicy::RememberGhost(const ChunkKey& key) {
  ghosts_.push_front(key);
  ghost_places_[key] = ghosts_.begin();
  while (ghosts_.size() > places_.size()) {
    ghost_places_.erase(ghosts_.back());
    ghosts_.pop_back();
  }
}

}  // namespace tessera
