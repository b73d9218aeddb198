#include "gateway/router/affinity.h"

#include <algorithm>

namespace tessera {

void AffinityTable::Learn(uint64_t chunk, uint32_t worker) {
  if (max_chunks_ == 0) return;
  const auto [found, is_new] = by_hash_.try_emplace(chunk, chunks_.end());
  if (is_new) {
    chunks_.push_front({.hash = chunk, .holders = {}});
    found->second = chunks_.begin();
  } else {
    chunks_.splice(chunks_.begin(), chunks_, found->second);
  }
  auto& holders = chunks_.front().holders;
  const auto leaves = [&](const Holder& holder) {
    return holder.worker == worker || !Lives(holder);
  };
  holders.erase(std::remove_if(holders.begin(), holders.end(), leaves), holders.end());
  if (holders.size() == kMaxHolders) holders.pop_back();
  holders.insert(holders.begin(), {.worker = worker, .life = LifeOf(worker)});
  if (chunks_.size() > max_chunks_) {
    by_hash_.erase(chunks_.back().hash);
    chunks_.pop_back();
  }
}

void AffinityTable::Forget(uint64_t chunk, uint32_t worker) {
  const auto found = by_hash_.find(chunk);
  if (found == by_hash_.end()) return;
  auto& holders = found->second->holders;
  const auto leaves = [&](const Holder& holder) {
    return holder.worker == worker || !Lives(holder);
  };
  holders.erase(std::remove_if(holders.begin(), holders.end(), leaves), holders.end());
  if (!holders.empty()) return;
  chunks_.erase(found->second);
  by_hash_.erase(found);
}

void AffinityTable::ForgetWorker(uint32_t worker) {
  if (lives_.size() <= worker) lives_.resize(worker + 1, 0);
  ++lives_[worker];
}

std::vector<uint32_t> AffinityTable::Holders(uint64_t chunk) const {
  std::vector<uint32_t> workers;
  const auto found = by_hash_.find(chunk);
  if (found == by_hash_.end()) return workers;
  for (const Holder& holder : found->second->holders) {
    if (Lives(holder)) workers.push_back(holder.worker);
  }
  return workers;
}

uint32_t AffinityTable::LifeOf(uint32_t worker) const {
  return worker < lives_.size() ? lives_[worker] : 0;
}

}  // namespace tessera
