// Brings the chunks of one prompt: from the worker's pool, from the cache, or by prefilling them
// alone.
#ifndef TESSERA_GPU_WORKER_BLEND_KV_LOADER_H_
#define TESSERA_GPU_WORKER_BLEND_KV_LOADER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/cancel_flag.h"
#include "base/steps.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/chunk_load.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/chunk_prefill.h"
#include "gpu_worker/blend/raw_chunk.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// For one request, on the one thread that issues device work. A chunk that is resident in the pool
// is taken from there; one that another request loads already is loaded once for both; the rest is
// asked for in one fetch. Any failure of the cache is a miss: the chunk is prefilled alone, which
// gives the bytes that the cache would have given.
//
// Each layer is waited for in steps, so that the thread can do other work meanwhile. All that is
// missing is computed while the rest is on its way. A loader that is dropped takes its wishes back:
// a load ends when nobody wants it.
class KvLoader {
 public:
  // All pointers must outlive it.
  KvLoader(const Decoder* decoder, CacheClient* client, ChunkPrefill* prefill, ChunkPool* pool,
           int64_t tokens_per_piece, const CancelFlag* cancelled);

  // Starts to bring all chunks; returns at once. The fetch must end within the timeout. The spans
  // are not needed afterwards.
  void Begin(const std::vector<WantedChunk>& wanted, const CallOptions& options);

  // Done when layers 0..layer of every chunk are here. Computes what is missing and nobody else is
  // computing, a layer a step, and waits for the rest until ChunkPool::Progress.
  Steps<absl::Status> Arriving(int64_t layer);
  // The same at once. CANCELLED only.
  absl::Status WaitForLayer(int64_t layer);

  // What these are made of. What stands between now and layers 0..layer of every chunk; never
  // waits.
  LoadState Poll(int64_t layer);
  // After kPrefill: a piece of any of the chunks to compute; nothing, if somebody is at it.
  std::optional<PieceClaim> ClaimPiece();
  // After kWait: when to poll again, though the pool told of no progress.
  absl::Time ready_by() const;

  // Only layers that were ready may be read. What was read of a chunk stays valid as long as the
  // loader, though a chunk whose rest has to be prefilled moves: ask again for every layer.
  const RawChunk& chunk(size_t i) const;
  // First tokens of chunk i that came from the cache or were resident.
  int64_t cached_tokens(size_t i) const;
  // These by the tiers they came from, in order; kWorkerTier if they were resident.
  std::vector<TierTokens> found(size_t i) const;

  // When all that is wanted was read, and before anybody sees what was made of it: whether what was
  // read is what the cache had. If not, chunks are to be computed, and all layers to be read again.
  bool Confirm();

  // What was prefilled and is to be stored, and may become resident: without this call it does not.
  // Of a chunk that several requests waited for, only the first to ask gets it. All layers must
  // have been ready.
  std::vector<FreshChunk> TakeFresh();

 private:
  Steps<absl::Status> Computing(PieceClaim claim);

  // One of the two.
  struct Source {
    std::shared_ptr<const RawChunk> resident;
    std::shared_ptr<ChunkLoad> load;
    int64_t losses = 0;  // of the load, before what is read now was read
  };

  const Decoder& decoder_;
  CacheClient& client_;
  ChunkPrefill& prefill_;
  const int64_t tokens_per_piece_;
  const CancelFlag& cancelled_;
  ChunkPool& pool_;
  std::vector<Source> chunks_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_KV_LOADER_H_
