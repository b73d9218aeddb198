// Brings the chunks of one prompt: from the cache where they are, by prefilling them alone where
// not.
#ifndef TESSERA_GPU_WORKER_BLEND_KV_LOADER_H_
#define TESSERA_GPU_WORKER_BLEND_KV_LOADER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/cancel_flag.h"
#include "cache_server/chunk/key.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/chunk_prefill.h"
#include "gpu_worker/blend/raw_chunk.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// A segment whose KV is wanted. The spans must outlive the loader.
struct WantedChunk {
  ChunkKey key;
  absl::Span<const uint32_t> sink;
  absl::Span<const uint32_t> tokens;
  Tenant tenant;  // whose bytes it counts as, if it is stored
};

// Pieces first_piece.. of a chunk that were prefilled for this request and are to be stored.
struct FreshChunk {
  ChunkKey key;
  int64_t first_piece = 0;
  std::unique_ptr<RawChunk> chunk;
  Tenant tenant = {};
  // Keys of all pieces, where these are blocks of a prompt's prefix; otherwise empty: a chunk's
  // pieces have theirs from `key`.
  std::vector<ChunkKey> block_keys = {};
};

// For one request, on one thread. Any failure of the cache is a miss: the chunk is prefilled alone,
// which gives the bytes that the cache would have given.
class KvLoader {
 public:
  // The whole fetch must end within `timeout`. layerwise: a layer may be used as soon as it is
  // here; otherwise Start waits for all.
  KvLoader(const Decoder* decoder, CacheClient* client, ChunkPrefill* prefill,
           int64_t tokens_per_piece, bool layerwise, const CancelFlag* cancelled);

  // Asks the cache for all chunks and prefills those it does not have. CANCELLED only.
  absl::Status Start(const std::vector<WantedChunk>& wanted, absl::Duration timeout);

  // Returns when layer `layer` of every chunk is here. CANCELLED only.
  absl::Status WaitForLayer(int64_t layer);

  // Only layers that were waited for may be read.
  const RawChunk& chunk(size_t i) const { return *chunks_[i].chunk; }
  // First tokens of chunk i that came from the cache.
  int64_t cached_tokens(size_t i) const;
  // The tier they came from; empty for none.
  const std::string& tier(size_t i) const { return chunks_[i].tier; }

  // What was prefilled, once the blend no longer reads chunks. All layers must have been waited
  // for.
  std::vector<FreshChunk> TakeFresh();

 private:
  struct State {
    WantedChunk wanted;
    std::unique_ptr<RawChunk> chunk;
    size_t first_target = 0;    // of its pieces in the fetch
    int64_t cached_pieces = 0;  // the first so many come from the cache
    std::string tier;
  };

  bool WaitForSlices(const State& state, int64_t layer);
  absl::Status PrefillFrom(int64_t first_piece, State& state);

  const Decoder& decoder_;
  CacheClient& client_;
  ChunkPrefill& prefill_;
  const int64_t tokens_per_piece_;
  const bool layerwise_;
  const CancelFlag& cancelled_;
  std::vector<State> chunks_;
  // Memory that the fetch may still write to though nobody reads it any more; after it stream_, so
  // that the stream ends first.
  std::vector<std::unique_ptr<RawChunk>> retired_;
  std::unique_ptr<FetchStream> stream_;
  // Ends the waits for slices; after stream_, which it uses.
  std::optional<CancelFlag::Hook> on_cancelled_;
};

// Piece `piece` of `chunk` under that key, as a fetch fills it and as a store takes it; the chunk
// must outlive them.
FetchTarget TargetOf(const ChunkKey& key, RawChunk& chunk, int64_t piece);
StoreSource SourceOf(const ChunkKey& key, const RawChunk& chunk, int64_t piece,
                     const Tenant& tenant);

// What to store of `chunks`, which must outlive the store.
std::vector<StoreSource> SourcesOf(const std::vector<FreshChunk>& chunks, int64_t tokens_per_piece);

// Key of piece `piece` of a chunk cut into pieces of tokens_per_piece.
ChunkKey PieceKeyOf(const ChunkKey& chunk, int64_t tokens_per_piece, int64_t piece);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_KV_LOADER_H_
