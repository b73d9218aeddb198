// One chunk on its way to the worker, for all requests that want it.
#ifndef TESSERA_GPU_WORKER_BLEND_CHUNK_LOAD_H_
#define TESSERA_GPU_WORKER_BLEND_CHUNK_LOAD_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/chunk/key.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/chunk_prefill.h"
#include "gpu_worker/blend/raw_chunk.h"
#include "gpu_worker/blend/tier_tokens.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// A segment whose KV is wanted.
struct WantedChunk {
  ChunkKey key;
  absl::Span<const uint32_t> sink;
  absl::Span<const uint32_t> tokens;
  Tenant tenant;            // whose bytes it counts as, if it is stored
  uint64_t chunk_hash = 0;  // what the router knows it by
  // The first so many tokens may be fetched, whole pieces or all. The rest is computed though the
  // cache may have it, where the link is so slow that this is faster; it is then not stored either.
  int64_t most_fetched = std::numeric_limits<int64_t>::max();
};

// Pieces first_piece.. of a chunk that were prefilled and are to be stored.
struct FreshChunk {
  ChunkKey key;
  int64_t first_piece = 0;
  std::shared_ptr<const RawChunk> chunk;
  Tenant tenant = {};
  // Keys of all pieces, where these are blocks of a prompt's prefix; otherwise empty: a chunk's
  // pieces have theirs from `key`.
  std::vector<ChunkKey> block_keys = {};
};

// One fetch from the cache, for the chunks of one prompt that nobody was loading yet. It ends when
// none of them needs it any more.
struct ChunkFetch {
  // What the stream may still write to, though nobody reads it any more; so that the stream ends
  // first.
  std::vector<std::shared_ptr<RawChunk>> memory;
  std::shared_ptr<FetchStream> stream;
};

enum class LoadState {
  kReady,
  kPrefill,  // a piece is to be computed, and nobody is at it
  kWait,     // for the cache, or for who computes a piece; nothing to do until Progress or ready_by
};

class PieceClaim;

// In this order: AddTargets, SetFetch, and then what the requests want. Any failure of the cache is
// a miss: the chunk is prefilled alone, once for all who want it, which gives the bytes that the
// cache would have given. For the one thread that issues device work.
//
// A device with memory of its own copies slices from where the fetch has them: that may be the
// cache server's memory, under a lease. So that what it read counts, a reader calls Confirm when it
// has read all that it wants, and before anybody sees what it made of it.
class ChunkLoad : public std::enable_shared_from_this<ChunkLoad> {
 public:
  // Both pointers must outlive it; `wanted` is copied, since the request that began may leave.
  static std::shared_ptr<ChunkLoad> Begin(const Decoder* decoder, ChunkPool* pool,
                                          const WantedChunk& wanted, int64_t tokens_per_piece);
  ~ChunkLoad();

  // Puts the chunk's pieces behind the fetch's other targets.
  void AddTargets(std::vector<FetchTarget>* targets, ChunkFetch* fetch);
  void SetFetch(std::shared_ptr<const ChunkFetch> fetch) { fetch_ = std::move(fetch); }

  // What stands between now and layers 0..layer; never waits for the cache.
  LoadState Poll(int64_t layer);
  // Begins to copy some more layers that have arrived to a device with memory of its own: for who
  // has what it waited for.
  void BringAhead();
  // The next piece to compute, if the state is kPrefill.
  std::optional<PieceClaim> Claim();

  // Looks whether all that was copied was still what had been verified; if not, the chunk is
  // prefilled: its state is kPrefill then. Waits for the copies. Only from here on a chunk that was
  // copied is resident.
  void Confirm();
  // Goes up when a lease was lost: what was read before is not to be used.
  int64_t losses() const { return losses_; }

  // Only layers that were polled ready may be read; valid for as long as the load is held, also
  // when the rest has to be prefilled into another chunk.
  const RawChunk& chunk() const { return *chunk_; }
  // First tokens that came from the cache server, and by the tiers that they came from, in order.
  int64_t cached_tokens() const;
  std::vector<TierTokens> found() const;
  // When to poll again at the latest.
  absl::Time ready_by() const;

  // What was prefilled, once it is whole; it becomes resident. For the first who asks, so that it
  // is stored once.
  std::optional<FreshChunk> TakeFresh();

 private:
  friend class PieceClaim;

  ChunkLoad(const Decoder* decoder, ChunkPool* pool, const WantedChunk& wanted,
            int64_t tokens_per_piece);
  bool HasHeader();
  // Whether layers 0..layer were fetched, or it is known that the chunk must be prefilled.
  bool HasArrived(int64_t layer);
  enum class Arrival { kHere, kWait, kMiss };
  Arrival ArrivalOf(int64_t layer) const;
  // Layers that are known to have arrived, without asking for each.
  int64_t LayersHere() const;
  // The next layers, which have arrived; brings them to a device with memory of its own.
  void TakeLayers(int64_t layers);
  // Whether all that was copied so far is right. Waits for the copies.
  bool LeaseHeld() const;
  void Arrived();
  void PrefillFrom(int64_t first_piece);
  void PieceDone();
  bool is_whole() const { return next_piece_ == chunk_->pieces(); }

  const Decoder& decoder_;
  ChunkPool& pool_;
  const ChunkKey key_;
  const std::vector<uint32_t> sink_;
  const std::vector<uint32_t> tokens_;
  const Tenant tenant_;
  const uint64_t chunk_hash_;
  const int64_t tokens_per_piece_;
  std::shared_ptr<RawChunk> chunk_;
  const int64_t fetched_pieces_;        // the first so many are asked for
  std::shared_ptr<RawChunk> replaced_;  // what was read of it may still be read
  // Null: nothing is awaited from the cache, nor to be confirmed.
  std::shared_ptr<const ChunkFetch> fetch_;
  size_t first_target_ = 0;  // of its pieces in the fetch
  bool has_header_ = false;
  int64_t cached_pieces_ = 0;  // the first so many come from the cache
  int64_t ready_layers_ = 0;   // of these, while they arrive
  int64_t next_piece_ = -1;    // to be computed; -1: not known yet
  bool claimed_ = false;       // somebody computes next_piece_
  bool fresh_taken_ = false;
  int64_t losses_ = 0;
  KvMemory kv_;  // of the sink and the pieces before next_piece_; empty until one is computed
  std::vector<std::string> tiers_;  // of the pieces that come from the cache
};

// The right to compute a load's next piece: others wait for it. Given up when it is dropped before
// Done; then another request computes the piece. Holds the load.
class PieceClaim {
 public:
  explicit PieceClaim(std::shared_ptr<ChunkLoad> load) : load_(std::move(load)) {
    load_->claimed_ = true;
  }
  ~PieceClaim() { GiveUp(); }
  PieceClaim(PieceClaim&&) = default;
  PieceClaim& operator=(PieceClaim&&) = delete;

  // ChunkPrefill::Begin gives kv() while it is empty, ChunkPrefill::RunningPiece fills the piece,
  // Done ends it.
  absl::Span<const uint32_t> sink() const { return load_->sink_; }
  absl::Span<const uint32_t> tokens() const { return load_->tokens_; }
  int64_t piece() const { return load_->next_piece_; }
  RawChunk& chunk() { return *load_->chunk_; }
  KvMemory& kv() { return load_->kv_; }
  // Not to be used after it.
  void Done();

 private:
  void GiveUp();

  std::shared_ptr<ChunkLoad> load_;  // null: done
};

// Piece `piece` of `chunk` under that key, as a fetch fills it and as a store takes it; the chunk
// must outlive them. For a device with memory of its own the fetch has the memory, from which
// RawChunk::Bring takes slices.
FetchTarget TargetOf(const ChunkKey& key, RawChunk& chunk, int64_t piece);
// Slices of a piece that have arrived: brings them to a device with memory of its own, in one copy.
void TakeSlices(const std::shared_ptr<FetchStream>& stream, size_t target, int64_t piece,
                int64_t first_layer, int64_t layers, const RawChunk& chunk);
StoreSource SourceOf(const ChunkKey& key, const RawChunk& chunk, int64_t piece,
                     const Tenant& tenant);

// What to store of `chunks`, which must outlive the store.
std::vector<StoreSource> SourcesOf(const std::vector<FreshChunk>& chunks, int64_t tokens_per_piece);

// Key of piece `piece` of a chunk cut into pieces of tokens_per_piece.
ChunkKey PieceKeyOf(const ChunkKey& chunk, int64_t tokens_per_piece, int64_t piece);

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_CHUNK_LOAD_H_
