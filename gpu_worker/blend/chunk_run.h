// A segment computed for its own sake, ahead of the prompts that will use it.
#ifndef TESSERA_GPU_WORKER_BLEND_CHUNK_RUN_H_
#define TESSERA_GPU_WORKER_BLEND_CHUNK_RUN_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/cancel_flag.h"
#include "base/steps.h"
#include "cache_server/chunk/key.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/cache_questions.h"
#include "gpu_worker/blend/chunk_load.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/chunk_prefill.h"
#include "gpu_worker/blend/raw_chunk.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// In this order: Asking, Computing unless all is there, Sources and TakeChunk. On the thread that
// issues device work.
class ChunkRun {
 public:
  // All pointers and the spans of `wanted` must outlive it. questions: of the same cache as client.
  // pool: told of the fetch's progress. fetch_timeout: for bringing the pieces that stand before
  // the first missing one.
  ChunkRun(const Decoder* decoder, CacheClient* client, CacheQuestions* questions,
           ChunkPrefill* prefill, ChunkPool* pool, const WantedChunk& wanted,
           int64_t tokens_per_piece, CallOptions fetch_options, const CancelFlag* cancelled);

  // Asks the cache which pieces it has; moves none. A cache that does not answer has none.
  Steps<absl::Status> Asking();

  // Whether the cache had every piece.
  bool has_all() const { return next_ >= end_; }

  // Fetches what stands before the first missing piece and computes from there to the last missing
  // one, and what does not come; a layer is a step. On the thread that issues device work.
  // CANCELLED only.
  Steps<absl::Status> Computing();

  const ChunkKey& key() const { return wanted_.key; }
  const std::vector<ChunkKey>& piece_keys() const { return piece_keys_; }
  int64_t tokens() const { return chunk_->tokens(); }
  int64_t bytes() const { return chunk_->bytes(); }
  // Of the pieces that the cache has.
  int64_t cached_tokens() const;

  // What to store: the missing pieces, whose memory is the chunk's.
  std::vector<StoreSource> Sources() const;
  std::unique_ptr<RawChunk> TakeChunk() { return std::move(chunk_); }

 private:
  Steps<absl::Status> Fetching();

  CacheClient& client_;
  CacheQuestions& questions_;
  ChunkPrefill& prefill_;
  ChunkPool& pool_;
  const WantedChunk wanted_;
  const CallOptions fetch_options_;
  const CancelFlag& cancelled_;
  std::unique_ptr<RawChunk> chunk_;
  std::vector<ChunkKey> piece_keys_;
  std::vector<bool> missing_;  // by piece
  int64_t next_ = 0;           // the piece to compute
  int64_t end_ = 0;            // behind the last missing piece: what follows it is of no use here
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_CHUNK_RUN_H_
