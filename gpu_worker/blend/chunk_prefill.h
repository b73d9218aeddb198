// The KV of a segment computed alone: what a chunk is.
#ifndef TESSERA_GPU_WORKER_BLEND_CHUNK_PREFILL_H_
#define TESSERA_GPU_WORKER_BLEND_CHUNK_PREFILL_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/steps.h"
#include "gpu_worker/blend/raw_chunk.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// Not thread-safe.
class ChunkPrefill {
 public:
  explicit ChunkPrefill(const Decoder* decoder) : decoder_(*decoder) {}

  // Fills pieces first_piece.. of `chunk` with the KV of `tokens` behind `sink` and behind the
  // pieces before, which are there already; the sink's own rows are dropped. K and V are rounded to
  // the cache's type before they are attended to, piece by piece: so a piece has the same bytes
  // whether those before it were computed now or came from the cache. CANCELLED when *cancelled
  // turns true; the chunk is then unfinished.
  absl::Status Run(absl::Span<const uint32_t> sink, absl::Span<const uint32_t> tokens,
                   int64_t first_piece, const std::atomic<bool>& cancelled, RawChunk& chunk);

  // Run in steps, for who does other work in between: Begin gives a memory that holds the sink and
  // the pieces before first_piece, RunPiece fills the next piece of the chunk and of the memory
  // (but for the memory's last layer, which no later piece reads). Steps of several chunks may take
  // turns.
  absl::StatusOr<KvMemory> Begin(absl::Span<const uint32_t> sink, int64_t first_piece,
                                 const std::atomic<bool>& cancelled, const RawChunk& chunk);
  absl::Status RunPiece(int64_t sink_tokens, absl::Span<const uint32_t> tokens, int64_t piece,
                        const std::atomic<bool>& cancelled, const KvMemory& kv, RawChunk& chunk);

  // RunPiece, a layer a step. All references must outlive it.
  Steps<absl::Status> RunningPiece(int64_t sink_tokens, absl::Span<const uint32_t> tokens,
                                   int64_t piece, const KvMemory& kv, RawChunk& chunk);

 private:
  absl::Status PlaceSink(absl::Span<const uint32_t> sink, const std::atomic<bool>& cancelled,
                         const KvMemory& kv);

  const Decoder& decoder_;
  // The last sink's KV: nearly always the same token, which would cost a decode step for every
  // chunk.
  std::vector<uint32_t> sink_;
  KvMemory sink_kv_;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_BLEND_CHUNK_PREFILL_H_
