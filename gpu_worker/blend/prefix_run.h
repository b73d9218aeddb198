// A full prefill that takes the longest prefix of its prompt that an earlier one computed.
#ifndef TESSERA_GPU_WORKER_BLEND_PREFIX_RUN_H_
#define TESSERA_GPU_WORKER_BLEND_PREFIX_RUN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/cancel_flag.h"
#include "base/steps.h"
#include "cache_server/chunk/key.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/chunk_load.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/chunk_prefill.h"
#include "gpu_worker/blend/raw_chunk.h"
#include "gpu_worker/blend/tier_tokens.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// The prompt is cut into blocks from its first token; the key of a block covers all tokens up to
// its end (MakeBlockKey). Blocks are computed as a chunk's pieces are, K and V rounded to the
// cache's type before they are attended to: so the answer is the same whichever of them came from
// the cache. At least the last token is computed. For one request, on one thread.
class PrefixRun {
 public:
  // keys: of the prompt's blocks (MakeBlockKey), all but those of its last token or later. The
  // first `resident` blocks are in the KV memory already. All pointers and `ids` (not empty) must
  // outlive it.
  PrefixRun(const Decoder* decoder, CacheClient* client, ChunkPrefill* prefill, ChunkPool* pool,
            absl::Span<const uint32_t> ids, std::vector<ChunkKey> keys, int64_t tokens_per_block,
            int64_t resident, const CancelFlag* cancelled);

  // Fills positions 0 .. ids.size() - 1 of `kv`, which must outlive it; gives the last hidden row.
  // A cache that fails has nothing; with a timeout of zero it is not asked. CANCELLED only.
  Steps<absl::StatusOr<Activations>> Run(CallOptions fetch, const KvMemory& kv);

  // First tokens that were resident or came from the cache.
  int64_t cached_tokens() const { return cached_blocks_ * tokens_per_block_; }
  // Those of the tokens first .. first + count - 1, by the tiers that they came from, in order.
  std::vector<TierTokens> Found(int64_t first, int64_t count) const;

  // The blocks that were computed; nothing, if none was.
  std::vector<FreshChunk> TakeFresh(const Tenant& tenant);

 private:
  Steps<absl::Status> Fetching(CallOptions options);
  void Place(int64_t block, int64_t layer, const KvMemory& kv);

  const Decoder& decoder_;
  CacheClient& client_;
  ChunkPrefill& prefill_;
  ChunkPool& pool_;
  const absl::Span<const uint32_t> ids_;
  const int64_t tokens_per_block_;
  const int64_t blocks_;
  const CancelFlag& cancelled_;
  std::vector<ChunkKey> keys_;
  const int64_t resident_;
  std::shared_ptr<RawChunk> chunk_;
  int64_t cached_blocks_;
  std::vector<std::string> tiers_;  // of these
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_PREFIX_RUN_H_
