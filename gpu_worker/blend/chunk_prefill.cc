#include "gpu_worker/blend/chunk_prefill.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "base/status_macros.h"

namespace tessera {

absl::Status ChunkPrefill::PlaceSink(absl::Span<const uint32_t> sink,
                                     const std::atomic<bool>& cancelled, const KvMemory& kv) {
  if (sink.empty()) return absl::OkStatus();
  const auto n = static_cast<int64_t>(sink.size());
  if (!std::equal(sink.begin(), sink.end(), sink_.begin(), sink_.end())) {
    sink_.clear();
    sink_kv_ = decoder_.MakeKv(n);
    RETURN_IF_ERROR(decoder_.Extend(sink_kv_, sink, 0, cancelled).status());
    sink_.assign(sink.begin(), sink.end());
  }
  // K and V of all heads and layers, one after the other in memory that is not a pool's.
  const LayerKv from = sink_kv_.Layer(0), to = kv.Layer(0);
  const int64_t slot = to.head_dim * BytesPer(decoder_.memory().kv_type());
  decoder_.memory().Copy(from.k, from.capacity * slot, to.k, to.capacity * slot, n * slot,
                         decoder_.config().layers * 2 * to.kv_heads);
  return absl::OkStatus();
}

absl::StatusOr<KvMemory> ChunkPrefill::Begin(absl::Span<const uint32_t> sink, int64_t first_piece,
                                             const std::atomic<bool>& cancelled,
                                             const RawChunk& chunk) {
  const auto behind = static_cast<int64_t>(sink.size());
  KvMemory kv = decoder_.MakeKv(behind + chunk.tokens());
  RETURN_IF_ERROR(PlaceSink(sink, cancelled, kv));
  for (int64_t layer = 0; first_piece > 0 && layer < decoder_.config().layers; ++layer) {
    std::vector<PlacedSlice> slices;
    for (int64_t piece = 0; piece < first_piece; ++piece) {
      slices.push_back({chunk.Slice(piece, layer), behind + chunk.FirstToken(piece)});
    }
    decoder_.ops().PlaceSlices(slices, decoder_.rope(), kv.Layer(layer));
  }
  return kv;
}

Steps<absl::Status> ChunkPrefill::RunningPiece(int64_t sink_tokens,
                                               absl::Span<const uint32_t> tokens, int64_t piece,
                                               const KvMemory& kv, RawChunk& chunk) {
  const int64_t first = chunk.FirstToken(piece), count = chunk.PieceTokens(piece);
  const Indices positions(decoder_.memory(), PositionsFrom(sink_tokens + first, count));
  const Activations h = decoder_.Embed(tokens.subspan(first, count));
  const int64_t layers = decoder_.config().layers;
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (layer > 0) co_await NextStep();
    Qkv fresh = decoder_.ProjectQkv(layer, h);
    decoder_.ops().RoundToSlice(fresh.k, fresh.v, chunk.SliceK(piece, layer),
                                chunk.SliceV(piece, layer));
    if (layer + 1 == layers) break;  // nobody reads what it would give
    decoder_.AttendAndFinish(layer, fresh, positions, positions, kv, h);
  }
  chunk.PieceComputed(piece);
  co_return absl::OkStatus();
}

absl::Status ChunkPrefill::RunPiece(int64_t sink_tokens, absl::Span<const uint32_t> tokens,
                                    int64_t piece, const std::atomic<bool>& cancelled,
                                    const KvMemory& kv, RawChunk& chunk) {
  return RunSteps(RunningPiece(sink_tokens, tokens, piece, kv, chunk), cancelled);
}

absl::Status ChunkPrefill::Run(absl::Span<const uint32_t> sink, absl::Span<const uint32_t> tokens,
                               int64_t first_piece, const std::atomic<bool>& cancelled,
                               RawChunk& chunk) {
  ASSIGN_OR_RETURN(const KvMemory kv, Begin(sink, first_piece, cancelled, chunk));
  const auto behind = static_cast<int64_t>(sink.size());
  for (int64_t piece = first_piece; piece < chunk.pieces(); ++piece) {
    RETURN_IF_ERROR(RunPiece(behind, tokens, piece, cancelled, kv, chunk));
  }
  return absl::OkStatus();
}

}  // namespace tessera
