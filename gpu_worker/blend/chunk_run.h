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
#include "cache_server/chunk/key.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/chunk_prefill.h"
#include "gpu_worker/blend/kv_loader.h"
#include "gpu_worker/blend/raw_chunk.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// In this order: Ask, Step until done, Sources and TakeChunk. On one thread, which may do other
// device work between any two calls.
class ChunkRun {
 public:
  // All pointers and the spans of `wanted` must outlive it. fetch_timeout: for bringing the pieces
  // that stand before the first missing one.
  ChunkRun(const Decoder* decoder, CacheClient* client, ChunkPrefill* prefill,
           const WantedChunk& wanted, int64_t tokens_per_piece, absl::Duration fetch_timeout,
           const CancelFlag* cancelled);

  // Asks the cache which pieces it has; moves none. A cache that does not answer has none.
  void Ask();

  // Whether every missing piece was computed.
  bool done() const { return next_ >= end_; }

  // Computes one piece; the first call also fetches what stands before it, and computes what does
  // not come. CANCELLED only.
  absl::Status Step();

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
  absl::Status Load();

  CacheClient& client_;
  ChunkPrefill& prefill_;
  const WantedChunk wanted_;
  const absl::Duration fetch_timeout_;
  const CancelFlag& cancelled_;
  std::unique_ptr<RawChunk> chunk_;
  std::vector<ChunkKey> piece_keys_;
  std::vector<bool> missing_;  // by piece
  bool loaded_ = false;
  int64_t next_ = 0;  // the piece that Step computes
  int64_t end_ = 0;   // behind the last missing piece: what follows it is of no use here
  KvMemory kv_;       // of the sink and the pieces before next_
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_CHUNK_RUN_H_
