#include "gpu_worker/blend/chunk_load.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "glog/logging.h"

namespace tessera {
namespace {

// Layers of a piece that one copy to a device brings ahead. Longer copies are faster, and cost the
// thread that feeds the device less; what is wanted first must not wait behind too many of them.
constexpr int64_t kLayersAtOnce = 4;

}  // namespace

ChunkKey PieceKeyOf(const ChunkKey& chunk, int64_t tokens_per_piece, int64_t piece) {
  return MakePieceKey(chunk, static_cast<uint32_t>(tokens_per_piece), static_cast<uint32_t>(piece));
}

FetchTarget TargetOf(const ChunkKey& key, RawChunk& chunk, int64_t piece) {
  return {key, static_cast<uint32_t>(chunk.layers()),
          static_cast<uint64_t>(chunk.SliceBytes(piece)),
          chunk.is_far() ? nullptr : chunk.PieceMemory(piece)};
}

void TakeSlices(const std::shared_ptr<FetchStream>& stream, size_t target, int64_t piece,
                int64_t first_layer, int64_t layers, const RawChunk& chunk) {
  if (!chunk.is_far()) return;
  chunk.Bring(
      piece, first_layer, layers,
      stream->Slices(target, static_cast<uint32_t>(first_layer), static_cast<uint32_t>(layers)),
      stream);
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

ChunkLoad::ChunkLoad(const Decoder* decoder, ChunkPool* pool, const WantedChunk& wanted,
                     int64_t tokens_per_piece)
    : decoder_(*decoder),
      pool_(*pool),
      key_(wanted.key),
      sink_(wanted.sink.begin(), wanted.sink.end()),
      tokens_(wanted.tokens.begin(), wanted.tokens.end()),
      tenant_(wanted.tenant),
      chunk_hash_(wanted.chunk_hash),
      tokens_per_piece_(tokens_per_piece),
      chunk_(std::make_shared<RawChunk>(decoder->config(),
                                        static_cast<int64_t>(wanted.tokens.size()),
                                        tokens_per_piece, decoder->memory())),
      fetched_pieces_(wanted.most_fetched >= chunk_->tokens()
                          ? chunk_->pieces()
                          : wanted.most_fetched / tokens_per_piece) {}

std::shared_ptr<ChunkLoad> ChunkLoad::Begin(const Decoder* decoder, ChunkPool* pool,
                                            const WantedChunk& wanted, int64_t tokens_per_piece) {
  std::shared_ptr<ChunkLoad> load(new ChunkLoad(decoder, pool, wanted, tokens_per_piece));
  pool->AddLoad(wanted.key, load);
  return load;
}

ChunkLoad::~ChunkLoad() { pool_.RemoveLoad(key_); }

void ChunkLoad::AddTargets(std::vector<FetchTarget>* targets, ChunkFetch* fetch) {
  first_target_ = targets->size();
  has_header_ = fetched_pieces_ == 0;
  for (int64_t piece = 0; piece < fetched_pieces_; ++piece) {
    targets->push_back(TargetOf(PieceKeyOf(key_, tokens_per_piece_, piece), *chunk_, piece));
  }
  if (!chunk_->is_far()) fetch->memory.push_back(chunk_);
}

LoadState ChunkLoad::Poll(int64_t layer) {
  CHECK_LT(layer, chunk_->layers());
  if (next_piece_ < 0 && !HasArrived(layer)) return LoadState::kWait;
  if (next_piece_ < 0 || is_whole()) return LoadState::kReady;
  return claimed_ ? LoadState::kWait : LoadState::kPrefill;
}

bool ChunkLoad::HasHeader() {
  if (has_header_) return true;
  if (!fetch_->stream->HeaderReady()) return false;
  has_header_ = true;
  const std::vector<std::string> tiers = fetch_->stream->WaitForHeader();
  while (cached_pieces_ < fetched_pieces_ && !tiers[first_target_ + cached_pieces_].empty()) {
    ++cached_pieces_;
  }
  tiers_.assign(tiers.begin() + first_target_, tiers.begin() + first_target_ + cached_pieces_);
  return true;
}

ChunkLoad::Arrival ChunkLoad::ArrivalOf(int64_t layer) const {
  FetchStream& stream = *fetch_->stream;
  bool all_ready = true;
  for (int64_t piece = 0; piece < cached_pieces_; ++piece) {
    if (!stream.SliceReady(first_target_ + piece, static_cast<uint32_t>(layer))) {
      all_ready = false;
    } else if (!stream.WaitForSlice(first_target_ + piece, static_cast<uint32_t>(layer))) {
      return Arrival::kMiss;
    }
  }
  return all_ready ? Arrival::kHere : Arrival::kWait;
}

int64_t ChunkLoad::LayersHere() const {
  int64_t here = chunk_->layers();
  for (int64_t piece = 0; piece < cached_pieces_ && here > ready_layers_; ++piece) {
    here = std::min<int64_t>(here, fetch_->stream->ReadyLayers(first_target_ + piece));
  }
  return here;
}

void ChunkLoad::TakeLayers(int64_t layers) {
  for (int64_t piece = 0; piece < cached_pieces_; ++piece) {
    TakeSlices(fetch_->stream, first_target_ + piece, piece, ready_layers_, layers, *chunk_);
  }
  ready_layers_ += layers;
}

void ChunkLoad::BringAhead() {
  const bool under_way = fetch_ != nullptr && next_piece_ < 0 && has_header_ && cached_pieces_ > 0;
  if (!under_way || !chunk_->is_far()) return;
  const int64_t layers = std::min(LayersHere() - ready_layers_, kLayersAtOnce);
  if (layers > 0) TakeLayers(layers);
}

bool ChunkLoad::HasArrived(int64_t layer) {
  if (!HasHeader()) return false;
  const bool found_whole = cached_pieces_ == chunk_->pieces();
  // What pieces are computed behind must be here whole.
  const int64_t needed = found_whole ? layer + 1 : cached_pieces_ > 0 ? chunk_->layers() : 0;
  while (ready_layers_ < needed) {
    // As a rule several are here, and are not asked for one by one.
    const int64_t here = std::min(LayersHere(), needed);
    if (here > ready_layers_) {
      TakeLayers(here - ready_layers_);
      continue;
    }
    switch (ArrivalOf(ready_layers_)) {
      case Arrival::kHere:
        TakeLayers(1);
        break;
      case Arrival::kWait:
        return false;
      case Arrival::kMiss:
        if (ready_layers_ > 0 && !LeaseHeld()) ++losses_;
        PrefillFrom(0);
        return true;
    }
  }
  if (!found_whole) {
    // What is computed behind it would be as wrong as it is.
    PrefillFrom(LeaseHeld() ? cached_pieces_ : 0);
  } else if (ready_layers_ == chunk_->layers()) {
    next_piece_ = chunk_->pieces();
    if (!chunk_->is_far()) Arrived();
  }
  return true;
}

bool ChunkLoad::LeaseHeld() const {
  if (!chunk_->is_far() || fetch_ == nullptr) return true;
  chunk_->AwaitBrought();
  return fetch_->stream->LeaseHeld();
}

void ChunkLoad::Confirm() {
  if (fetch_ == nullptr) return;
  if (!LeaseHeld()) {
    ++losses_;
    PrefillFrom(0);
  } else if (next_piece_ == chunk_->pieces()) {
    Arrived();
  }
}

void ChunkLoad::Arrived() {
  fetch_ = nullptr;
  pool_.Keep(key_, chunk_hash_, chunk_);
}

// The fetch may still write to the present chunk's memory, or requests read it, so the prefill goes
// to a new one. Not where nobody does: a fetch never writes to a device's own memory, and of a
// chunk that is not here whole nothing was shown.
void ChunkLoad::PrefillFrom(int64_t first_piece) {
  const bool was_shown = cached_pieces_ == chunk_->pieces() && ready_layers_ > 0;
  if (!chunk_->is_far() || was_shown) {
    auto fresh = std::make_shared<RawChunk>(decoder_.config(), chunk_->tokens(), tokens_per_piece_,
                                            decoder_.memory());
    for (int64_t piece = 0; piece < first_piece; ++piece) {
      std::memcpy(fresh->PieceMemory(piece), chunk_->PieceMemory(piece), fresh->PieceBytes(piece));
    }
    replaced_ = std::move(chunk_);
    chunk_ = std::move(fresh);
  }
  cached_pieces_ = next_piece_ = first_piece;
  tiers_.resize(first_piece);
  fetch_ = nullptr;
}

std::optional<PieceClaim> ChunkLoad::Claim() {
  if (next_piece_ < 0 || is_whole() || claimed_) return std::nullopt;
  return PieceClaim(shared_from_this());
}

void ChunkLoad::PieceDone() {
  ++next_piece_;
  if (is_whole()) kv_ = KvMemory();
}

int64_t ChunkLoad::cached_tokens() const {
  return std::min(chunk_->tokens(), cached_pieces_ * tokens_per_piece_);
}

std::vector<TierTokens> ChunkLoad::found() const {
  std::vector<TierTokens> found;
  for (int64_t piece = 0; piece < cached_pieces_; ++piece) {
    const int64_t start = piece * tokens_per_piece_;
    AddTokens(tiers_[piece], std::min(chunk_->tokens() - start, tokens_per_piece_), &found);
  }
  return found;
}

absl::Time ChunkLoad::ready_by() const {
  const bool is_awaited = fetch_ != nullptr && next_piece_ < 0;
  return is_awaited ? fetch_->stream->ready_by() : absl::InfiniteFuture();
}

std::optional<FreshChunk> ChunkLoad::TakeFresh() {
  const bool computed = is_whole() && cached_pieces_ < chunk_->pieces();
  if (!computed || fresh_taken_) return std::nullopt;
  fresh_taken_ = true;
  pool_.Keep(key_, chunk_hash_, chunk_);
  if (fetched_pieces_ < chunk_->pieces()) return std::nullopt;
  return FreshChunk{.key = key_, .first_piece = cached_pieces_, .chunk = chunk_, .tenant = tenant_};
}

void PieceClaim::Done() {
  load_->PieceDone();
  GiveUp();
}

// Whoever waits for the piece looks again: it is there, or must be computed.
void PieceClaim::GiveUp() {
  if (load_ == nullptr) return;
  load_->claimed_ = false;
  load_->pool_.Progress();
  load_ = nullptr;
}

}  // namespace tessera
