// Which workers have which chunks in their memory, as far as this gateway has seen.
#ifndef TESSERA_GATEWAY_ROUTER_AFFINITY_H_
#define TESSERA_GATEWAY_ROUTER_AFFINITY_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"

namespace tessera {

// Chunks are known by their ChunkHash. Bounded: past `max_chunks` the chunk that was learnt longest
// ago is forgotten, and of one chunk only the last kMaxHolders workers are known. Workers are
// numbers that the owner gives, small ones. Not thread-safe.
class AffinityTable {
 public:
  static constexpr size_t kMaxHolders = 8;

  // 0 chunks: knows nothing, ever.
  explicit AffinityTable(size_t max_chunks) : max_chunks_(max_chunks) {}

  // That worker has this chunk now; also makes the chunk the last to go.
  void Learn(uint64_t chunk, uint32_t worker);
  // It has it no longer.
  void Forget(uint64_t chunk, uint32_t worker);
  // It has nothing any longer: another process answers in its place. Takes no time for what it had.
  void ForgetWorker(uint32_t worker);

  // Who has it, the last that was learnt first; empty: not known.
  std::vector<uint32_t> Holders(uint64_t chunk) const;

  // Chunks that take up room, those included whose workers were all forgotten.
  size_t size() const { return chunks_.size(); }

 private:
  struct Holder {
    uint32_t worker = 0;
    // Which of that worker's lives: what an earlier life had is gone.
    uint32_t life = 0;
  };
  struct Chunk {
    uint64_t hash = 0;
    absl::InlinedVector<Holder, 2> holders;
  };

  uint32_t LifeOf(uint32_t worker) const;
  bool Lives(const Holder& holder) const { return holder.life == LifeOf(holder.worker); }

  const size_t max_chunks_;
  std::list<Chunk> chunks_;  // the last that was learnt first
  absl::flat_hash_map<uint64_t, std::list<Chunk>::iterator> by_hash_;
  std::vector<uint32_t> lives_;  // by worker; absent: 0
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_ROUTER_AFFINITY_H_
