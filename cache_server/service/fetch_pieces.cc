#include "cache_server/service/fetch_pieces.h"

#include <utility>

#include "glog/logging.h"

namespace tessera {

std::shared_ptr<FetchPieces> FetchPieces::Start(ChunkStore* store, absl::Span<const ChunkKey> keys,
                                                bool stop_at_first_miss) {
  auto self = std::make_shared<FetchPieces>();
  self->pieces_.resize(keys.size());
  std::vector<size_t> lower;
  const size_t nowhere = store->tiers().size();
  for (size_t i = 0; i < keys.size(); ++i) {
    Piece& piece = self->pieces_[i];
    absl::StatusOr<FoundPiece> found = store->GetFast(keys[i]);
    if (found.ok()) {
      store->CountLookup(0, found->handle.shape().bytes());
      piece.shape = found->handle.shape();
      piece.tier = std::move(found->tier);
      piece.state = State::kReady;
      piece.handle.emplace(std::move(found->handle));
      continue;
    }
    if (std::optional<FoundPlace> place = store->Find(keys[i])) {
      store->CountLookup(place->tier_index, place->shape.bytes());
      piece.shape = place->shape;
      piece.tier = std::move(place->tier);
      piece.state = State::kLoading;
      lower.push_back(i);
    } else if (!stop_at_first_miss) {
      store->CountLookup(nowhere, 0);
    } else {
      // What comes behind it is a miss too.
      for (size_t missed = i; missed < keys.size(); ++missed) store->CountLookup(nowhere, 0);
      break;
    }
  }
  for (const size_t i : lower) {
    store->Load(keys[i],
                [self, i](absl::StatusOr<FoundPiece> found) { self->Loaded(i, std::move(found)); });
  }
  return self;
}

FetchPieces::State FetchPieces::state(size_t piece) const {
  absl::MutexLock lock(&mutex_);
  return pieces_[piece].state;
}

const ReadHandle& FetchPieces::handle(size_t piece) const {
  absl::MutexLock lock(&mutex_);
  CHECK(pieces_[piece].state == State::kReady);
  return *pieces_[piece].handle;
}

bool FetchPieces::WakeWhenLoaded(size_t piece, std::function<void()> wake) {
  absl::MutexLock lock(&mutex_);
  if (pieces_[piece].state != State::kLoading) return false;
  waiting_for_ = piece;
  wake_ = std::move(wake);
  return true;
}

void FetchPieces::Loaded(size_t piece, absl::StatusOr<FoundPiece> found) {
  std::function<void()> wake;
  {
    absl::MutexLock lock(&mutex_);
    Piece& loaded = pieces_[piece];
    // A piece that was erased and stored anew with other sizes is not what was announced.
    if (found.ok() && found->handle.shape() == loaded.shape) {
      loaded.handle.emplace(std::move(found->handle));
      loaded.state = State::kReady;
    } else {
      loaded.state = State::kLost;
      lost_.fetch_add(1, std::memory_order_release);
    }
    if (wake_ != nullptr && waiting_for_ == piece) wake = std::exchange(wake_, nullptr);
  }
  if (wake != nullptr) wake();
}

}  // namespace tessera
