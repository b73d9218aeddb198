#include "gpu_worker/blend/kv_loader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {
namespace {

// Layers are taken as they are computed, which on a slow processor takes longer than any fetch.
constexpr absl::Duration kSlowestBlend = absl::Minutes(10);

}  // namespace

ChunkKey PieceKeyOf(const ChunkKey& chunk, int64_t tokens_per_piece, int64_t piece) {
  return MakePieceKey(chunk, static_cast<uint32_t>(tokens_per_piece), static_cast<uint32_t>(piece));
}

FetchTarget TargetOf(const ChunkKey& key, RawChunk& chunk, int64_t piece) {
  return {key, static_cast<uint32_t>(chunk.layers()),
          static_cast<uint64_t>(chunk.SliceBytes(piece)), chunk.PieceMemory(piece)};
}

StoreSource SourceOf(const ChunkKey& key, const RawChunk& chunk, int64_t piece,
                     const Tenant& tenant) {
  return {key, static_cast<uint32_t>(chunk.layers()),
          static_cast<uint64_t>(chunk.SliceBytes(piece)), chunk.PieceMemory(piece), tenant};
}

std::vector<StoreSource> SourcesOf(const std::vector<FreshChunk>& chunks,
                                   int64_t tokens_per_piece) {
  std::vector<StoreSource> sources;
  for (const FreshChunk& fresh : chunks) {
    const RawChunk& chunk = *fresh.chunk;
    for (int64_t piece = fresh.first_piece; piece < chunk.pieces(); ++piece) {
      const ChunkKey key = fresh.block_keys.empty() ? PieceKeyOf(fresh.key, tokens_per_piece, piece)
                                                    : fresh.block_keys[piece];
      sources.push_back(SourceOf(key, chunk, piece, fresh.tenant));
    }
  }
  return sources;
}

KvLoader::KvLoader(const Decoder* decoder, CacheClient* client, ChunkPrefill* prefill,
                   int64_t tokens_per_piece, bool layerwise, const CancelFlag* cancelled)
    : decoder_(*decoder),
      client_(*client),
      prefill_(*prefill),
      tokens_per_piece_(tokens_per_piece),
      layerwise_(layerwise),
      cancelled_(*cancelled) {}

absl::Status KvLoader::Start(const std::vector<WantedChunk>& wanted, absl::Duration timeout) {
  std::vector<FetchTarget> targets;
  for (const WantedChunk& want : wanted) {
    State state{want};
    state.chunk = std::make_unique<RawChunk>(
        decoder_.config(), static_cast<int64_t>(want.tokens.size()), tokens_per_piece_);
    state.first_target = targets.size();
    for (int64_t piece = 0; piece < state.chunk->pieces(); ++piece) {
      const ChunkKey key = PieceKeyOf(want.key, tokens_per_piece_, piece);
      targets.push_back(TargetOf(key, *state.chunk, piece));
    }
    chunks_.push_back(std::move(state));
  }
  stream_ = client_.Fetch(std::move(targets), {.timeout = timeout, .use_within = kSlowestBlend});
  on_cancelled_.emplace(cancelled_, [this] { stream_->Cancel(); });
  const std::vector<std::string> tiers = stream_->WaitForHeader();
  for (State& state : chunks_) {
    while (state.cached_pieces < state.chunk->pieces() &&
           !tiers[state.first_target + state.cached_pieces].empty()) {
      ++state.cached_pieces;
    }
    if (state.cached_pieces > 0) state.tier = tiers[state.first_target];
  }
  // All that is missing is computed while the rest is on its way.
  for (State& state : chunks_) {
    if (state.cached_pieces < state.chunk->pieces()) {
      RETURN_IF_ERROR(PrefillFrom(state.cached_pieces, state));
    }
  }
  if (layerwise_) return absl::OkStatus();
  for (int64_t layer = 0; layer < decoder_.config().layers; ++layer) {
    RETURN_IF_ERROR(WaitForLayer(layer));
  }
  return absl::OkStatus();
}

bool KvLoader::WaitForSlices(const State& state, int64_t layer) {
  for (int64_t piece = 0; piece < state.cached_pieces; ++piece) {
    if (!stream_->WaitForSlice(state.first_target + piece, static_cast<uint32_t>(layer))) {
      return false;
    }
  }
  return true;
}

// The fetch may still write to the present chunk's memory, so the prefill goes to a new one.
absl::Status KvLoader::PrefillFrom(int64_t first_piece, State& state) {
  // All that was cancelled looks like a miss here, and is not to be computed.
  if (cancelled_.IsSet()) return absl::CancelledError("the request was cancelled");
  auto fresh =
      std::make_unique<RawChunk>(decoder_.config(), state.chunk->tokens(), tokens_per_piece_);
  state.cached_pieces = first_piece;
  for (int64_t layer = 0; layer < decoder_.config().layers && state.cached_pieces > 0; ++layer) {
    if (!WaitForSlices(state, layer)) state.cached_pieces = 0;
  }
  for (int64_t piece = 0; piece < state.cached_pieces; ++piece) {
    std::memcpy(fresh->PieceMemory(piece), state.chunk->PieceMemory(piece),
                fresh->PieceBytes(piece));
  }
  if (state.cached_pieces == 0) state.tier.clear();
  retired_.push_back(std::move(state.chunk));
  state.chunk = std::move(fresh);
  return prefill_.Run(state.wanted.sink, state.wanted.tokens, state.cached_pieces,
                      cancelled_.value(), *state.chunk);
}

absl::Status KvLoader::WaitForLayer(int64_t layer) {
  for (State& state : chunks_) {
    if (cancelled_.IsSet()) return absl::CancelledError("the request was cancelled");
    // A partly cached chunk was completed at the start, all its layers with it.
    if (state.cached_pieces < state.chunk->pieces() || WaitForSlices(state, layer)) continue;
    RETURN_IF_ERROR(PrefillFrom(0, state));
  }
  return absl::OkStatus();
}

int64_t KvLoader::cached_tokens(size_t i) const {
  const State& state = chunks_[i];
  return std::min(state.chunk->tokens(), state.cached_pieces * tokens_per_piece_);
}

std::vector<FreshChunk> KvLoader::TakeFresh() {
  std::vector<FreshChunk> fresh;
  for (State& state : chunks_) {
    if (state.cached_pieces == state.chunk->pieces()) continue;
    fresh.push_back(
        {state.wanted.key, state.cached_pieces, std::move(state.chunk), state.wanted.tenant});
  }
  return fresh;
}

}  // namespace tessera
