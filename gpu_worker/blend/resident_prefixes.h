// Prefixes of prompts that stay in KV memory when their requests are over.
#ifndef TESSERA_GPU_WORKER_BLEND_RESIDENT_PREFIXES_H_
#define TESSERA_GPU_WORKER_BLEND_RESIDENT_PREFIXES_H_

#include <cstdint>
#include <list>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "cache_server/chunk/key.h"
#include "gpu_worker/model/kv_memory.h"

namespace tessera {

// Whole pieces of a prompt's beginning, by their prefix keys (MakeBlockKey: all tokens up to a
// piece's end), whose K and V are those that the cache has or would have. Requests share their
// blocks without a copy. Holds blocks only as long as nobody else needs them: MakeRoom frees the
// least recently used. Pieces that are no multiple of a block are not kept. Not thread-safe.
class ResidentPrefixes {
 public:
  // The pool must outlive it.
  ResidentPrefixes(KvPool* pool, int64_t tokens_per_piece);
  ~ResidentPrefixes();
  ResidentPrefixes(const ResidentPrefixes&) = delete;
  ResidentPrefixes& operator=(const ResidentPrefixes&) = delete;

  // keys: of a prompt's first pieces, in order. How many of them are here, from the first on.
  int64_t Count(absl::Span<const ChunkKey> keys) const;
  // Gives their blocks to `kv`, which has none yet; returns how many pieces these are.
  int64_t Share(absl::Span<const ChunkKey> keys, KvMemory* kv);
  // The first pieces in `kv` are complete and have these keys: others may share them from now on.
  void Add(absl::Span<const ChunkKey> keys, const KvMemory& kv);

  // Of the blocks that Share would give: how many are in use besides, and so take no room.
  int64_t BusyBlocks(absl::Span<const ChunkKey> keys) const;
  // Blocks that nobody but this holds.
  int64_t idle_blocks() const;
  // Drops idle pieces until so many blocks of the pool are free, or none is idle.
  void MakeRoom(int64_t free_blocks);

 private:
  struct Piece {
    ChunkKey key;
    std::vector<int32_t> blocks;
  };
  using Pieces = std::list<Piece>;  // the most recently used first

  bool IsIdle(const Piece& piece) const;
  void Touch(Pieces::iterator piece) { pieces_.splice(pieces_.begin(), pieces_, piece); }

  KvPool& pool_;
  const int64_t blocks_per_piece_;  // 0: keeps nothing
  Pieces pieces_;
  absl::flat_hash_map<ChunkKey, Pieces::iterator> by_key_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_RESIDENT_PREFIXES_H_
