// S3-FIFO: three queues, no reordering on a read.
#ifndef TESSERA_CACHE_SERVER_TIER_S3_FIFO_POLICY_H_
#define TESSERA_CACHE_SERVER_TIER_S3_FIFO_POLICY_H_

#include <cstdint>
#include <list>

#include "absl/container/flat_hash_map.h"
#include "cache_server/tier/eviction_policy.h"

namespace tessera {

// New entries go into a small queue of a tenth of the bytes. What was read at least twice when it
// reaches the end of it moves to the main queue; the rest goes, and its key is remembered for a
// while (the ghost queue): if it comes back in that time, it goes straight to the main queue. An
// entry at the end of the main queue goes another round for each time it was read, three at most.
// So what is read once only, such as a scan, passes through the small queue and leaves the main one
// alone.
class S3FifoPolicy : public EvictionPolicy {
 public:
  explicit S3FifoPolicy(uint64_t capacity_bytes);

  void Add(const ChunkKey& key, uint64_t bytes) override;
  void Touch(const ChunkKey& key) override;
  void Remove(const ChunkKey& key) override;
  std::optional<ChunkKey> Evict(absl::FunctionRef<bool(const ChunkKey&)> may_evict) override;

  // Keys that are remembered of entries that are gone.
  size_t ghosts() const { return ghost_places_.size(); }

 private:
  struct Entry {
    ChunkKey key;
    uint64_t bytes;
    uint32_t reads;    // since it came to its queue, up to kMostReads
    uint64_t refused;  // the last round of Evict in which it was not allowed to go
    bool in_small;
  };
  using Queue = std::list<Entry>;  // newest first
  using MayEvict = absl::FunctionRef<bool(const ChunkKey&)>;

  std::optional<ChunkKey> EvictSmall(MayEvict may_evict);
  std::optional<ChunkKey> EvictMain(MayEvict may_evict);
  // Asks at most once a round.
  bool MayGo(Entry* entry, MayEvict may_evict);
  void Drop(Queue::iterator entry);
  bool ForgetGhost(const ChunkKey& key);
  void RememberGhost(const ChunkKey& key);

  const uint64_t small_target_;
  // Every entry is in one queue and in `places_`, and then not in `ghosts_`.
  Queue small_;
  Queue main_;
  absl::flat_hash_map<ChunkKey, Queue::iterator> places_;
  uint64_t small_bytes_ = 0;
  uint64_t round_ = 0;
  std::list<ChunkKey> ghosts_;  // newest first
  absl::flat_hash_map<ChunkKey, std::list<ChunkKey>::iterator> ghost_places_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_S3_FIFO_POLICY_H_
