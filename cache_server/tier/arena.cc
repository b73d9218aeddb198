#include "cache_server/tier/arena.h"

#include <iterator>
#include <limits>

#include "glog/logging.h"

namespace tessera {

Arena::Arena(uint64_t size) : size_(size) {
  CHECK_GT(size, 0u);
  CHECK_EQ(size % kUnit, 0u);
  absl::MutexLock lock(&mutex_);
  AddFree(0, size);
}

void Arena::AddFree(uint64_t start, uint64_t bytes) {
  stretches_[start] = {bytes, nullptr};
  free_.emplace(bytes, start);
}

std::optional<uint64_t> Arena::Allocate(uint64_t bytes, Owner owner) {
  CHECK_GT(bytes, 0u);
  CHECK(owner != nullptr);
  if (bytes > size_) return std::nullopt;
  bytes = RoundUp(bytes);
  absl::MutexLock lock(&mutex_);
  const auto best = free_.lower_bound({bytes, 0});
  if (best == free_.end()) return std::nullopt;
  const auto [free_bytes, start] = *best;
  free_.erase(best);
  stretches_[start] = {bytes, owner};
  if (free_bytes > bytes) AddFree(start + bytes, free_bytes - bytes);
  used_ += bytes;
  return start;
}

void Arena::Free(uint64_t start) {
  absl::MutexLock lock(&mutex_);
  auto freed = stretches_.find(start);
  CHECK(freed != stretches_.end() && freed->second.owner != nullptr) << "not taken: " << start;
  uint64_t bytes = freed->second.bytes;
  used_ -= bytes;
  const auto next = std::next(freed);
  if (next != stretches_.end() && next->second.owner == nullptr) {
    bytes += next->second.bytes;
    free_.erase({next->second.bytes, next->first});
    stretches_.erase(next);
  }
  if (freed != stretches_.begin()) {
    const auto previous = std::prev(freed);
    if (previous->second.owner == nullptr) {
      bytes += previous->second.bytes;
      start = previous->first;
      free_.erase({previous->second.bytes, previous->first});
      stretches_.erase(freed);
    }
  }
  AddFree(start, bytes);
}

std::optional<std::vector<Arena::Owner>> Arena::FindWindow(uint64_t bytes, uint64_t near,
                                                           MayGo may_go) const {
  CHECK_LT(near, size_);
  if (bytes > size_) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  const auto middle = std::prev(stretches_.upper_bound(near));
  // Enough on either side that a window fits even if `near` lies at an end of the arena.
  auto first = middle;
  while (first != stretches_.begin() && middle->first - first->first < bytes) --first;
  auto last = std::next(middle);
  while (last != stretches_.end() && last->first - middle->first < bytes) ++last;
  return CheapestWindow(first, last, bytes, may_go);
}

std::optional<std::vector<Arena::Owner>> Arena::FindWindowAnywhere(uint64_t bytes,
                                                                   MayGo may_go) const {
  absl::MutexLock lock(&mutex_);
  return CheapestWindow(stretches_.begin(), stretches_.end(), bytes, may_go);
}

// One pass: [low, high] is the shortest window that ends with `high`, and `taken` what it costs. A
// window that contains another costs no less, so only the shortest ones count.
std::optional<std::vector<Arena::Owner>> Arena::CheapestWindow(Stretches::const_iterator first,
                                                               Stretches::const_iterator last,
                                                               uint64_t bytes, MayGo may_go) {
  uint64_t cheapest = std::numeric_limits<uint64_t>::max();
  auto best_first = last;
  auto best_last = last;
  uint64_t total = 0;
  uint64_t taken = 0;
  auto low = first;
  for (auto high = first; high != last; ++high) {
    const Stretch& added = high->second;
    if (added.owner != nullptr && !may_go(added.owner)) {
      low = std::next(high);
      total = taken = 0;
      continue;
    }
    total += added.bytes;
    if (added.owner != nullptr) taken += added.bytes;
    while (total - low->second.bytes >= bytes) {
      total -= low->second.bytes;
      if (low->second.owner != nullptr) taken -= low->second.bytes;
      ++low;
    }
    if (total >= bytes && taken < cheapest) {
      cheapest = taken;
      best_first = low;
      best_last = std::next(high);
    }
  }
  if (best_first == last) return std::nullopt;
  std::vector<Owner> owners;
  for (auto stretch = best_first; stretch != best_last; ++stretch) {
    if (stretch->second.owner != nullptr) owners.push_back(stretch->second.owner);
  }
  return owners;
}

uint64_t Arena::used() const {
  absl::MutexLock lock(&mutex_);
  return used_;
}

uint64_t Arena::largest_free() const {
  absl::MutexLock lock(&mutex_);
  return free_.empty() ? 0 : free_.rbegin()->first;
}

}  // namespace tessera
