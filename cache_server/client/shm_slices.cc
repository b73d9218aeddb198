// How the slices of a fetch over shared memory become ready.
#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/time/clock.h"
#include "base/log.h"
#include "cache_server/chunk/checksum.h"
#include "cache_server/client/shm_fetch.h"

namespace tessera {
namespace {

// What a verifier takes at a time: enough that taking it costs nothing beside it.
constexpr uint64_t kBytesAtATime = uint64_t{1} << 20;

}  // namespace

bool ShmFetchStream::MayVerify() const {
  return !cancelled_ && !lease_lost_ && !falling_back_ && fallback_ == nullptr &&
         absl::Now() < options_.use_deadline;
}

bool ShmFetchStream::IsToBeVerified(size_t target, uint32_t layer) const {
  const Piece& piece = pieces_[target];
  // From the deadline on whoever asks does it, since all must be ready then.
  return answered_ && piece.state == ShmState::kHere && !piece.failed &&
         piece.ready_layers <= layer && layer < targets_[target].layers && MayVerify() &&
         absl::Now() < options_.deadline;
}

bool ShmFetchStream::IsUnverified(size_t target) const {
  const Piece& piece = pieces_[target];
  return piece.state == ShmState::kHere && !piece.failed &&
         piece.ready_layers < targets_[target].layers;
}

uint32_t ShmFetchStream::VerifiedLayers() const {
  uint32_t lowest = std::numeric_limits<uint32_t>::max();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (IsUnverified(i)) lowest = std::min(lowest, pieces_[i].ready_layers);
  }
  return lowest;
}

std::vector<size_t> ShmFetchStream::Claim() {
  std::vector<size_t> claimed;
  if (!MayVerify()) return claimed;
  const auto is_open = [this](size_t i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return IsUnverified(i) && !pieces_[i].busy;
  };
  uint32_t lowest = std::numeric_limits<uint32_t>::max();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (is_open(i)) lowest = std::min(lowest, pieces_[i].ready_layers);
  }
  uint64_t bytes = 0;
  for (size_t i = 0; i < pieces_.size() && bytes < kBytesAtATime; ++i) {
    if (!is_open(i) || pieces_[i].ready_layers != lowest) continue;
    pieces_[i].busy = true;
    claimed.push_back(i);
    bytes += targets_[i].slice_bytes;
  }
  return claimed;
}

bool ShmFetchStream::VerifySome() {
  absl::MutexLock lock(&mutex_);
  const auto all_told = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return answered_ && std::none_of(pieces_.begin(), pieces_.end(), [](const Piece& piece) {
             return piece.state == ShmState::kPending && !piece.failed;
           });
  };
  ReadUntil(all_told, Patience::kNone);
  const std::vector<size_t> claimed = Claim();
  if (claimed.empty()) return false;
  const uint32_t layer = pieces_[claimed.front()].ready_layers;
  std::vector<ShmPlace> places;
  for (const size_t i : claimed) places.push_back(pieces_[i].place);
  std::vector<Check> checks;
  const Lease lease = lease_;
  ++checking_;
  mutex_.Unlock();
  for (size_t i = 0; i < claimed.size(); ++i) {
    checks.push_back(CheckSlice(claimed[i], layer, places[i], lease));
  }
  mutex_.Lock();
  --checking_;
  const uint32_t before = VerifiedLayers();
  for (const size_t i : claimed) pieces_[i].busy = false;
  for (size_t i = 0; i < claimed.size(); ++i) Settle(claimed[i], checks[i]);
  // Whoever listens asks for all pieces of a layer, and would hold the verifiers up for each slice.
  const bool all_right = std::all_of(checks.begin(), checks.end(),
                                     [](const Check check) { return check == Check::kRight; });
  if (!all_right || VerifiedLayers() != before) Tell();
  return true;
}

bool ShmFetchStream::MakeReady(size_t target, uint32_t layer) {
  Piece& piece = pieces_[target];
  if (layer >= targets_[target].layers) return false;
  const bool in_place = targets_[target].memory == nullptr;
  while (piece.ready_layers <= layer) {
    const bool here = piece.state == ShmState::kHere && !piece.failed;
    if (!here || !MayVerify()) return false;
    if (piece.busy) {
      auto free = [this, &piece]()
                      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !piece.busy || cancelled_; };
      mutex_.AwaitWithDeadline(absl::Condition(&free), options_.use_deadline);
      continue;
    }
    piece.busy = true;
    ++checking_;
    const uint32_t layer_to_check = piece.ready_layers;
    const ShmPlace place = piece.place;
    const Lease lease = lease_;
    mutex_.Unlock();
    const Check check = CheckSlice(target, layer_to_check, place, lease);
    mutex_.Lock();
    --checking_;
    piece.busy = false;
    Settle(target, check);
  }
  if (in_place && (lease_lost_ || !IsLeaseHeld(*mapping_->lease_table, lease_))) {
    LoseLease();
    return false;
  }
  handed_out_ = true;
  shows_shared_ = shows_shared_ || in_place;
  return true;
}

void ShmFetchStream::Settle(size_t target, Check check) {
  Piece& piece = pieces_[target];
  switch (check) {
    case Check::kRight:
      ++piece.ready_layers;
      outcomes_->ShmRead(targets_[target].slice_bytes);
      return;
    case Check::kLost:
      LoseLease();
      return;
    case Check::kWrong:
      piece.failed = true;
      outcomes_->ChecksumFailed();
      LOG_EVENT_LIMITED(kWarning, "shm_checksum")
          .With("layer", piece.ready_layers)
          .With("key", targets_[target].key.ToHex());
      // Best effort, as all that is done about it.
      (void)connection_->Send(MakeShmPacket(ShmType::kErase, 0, ShmNothing(),
                                            absl::MakeConstSpan(&targets_[target].key, 1)),
                              absl::InfinitePast());
      return;
  }
}

const std::byte* ShmFetchStream::SharedSlice(const ShmPlace& place, uint32_t layer) const {
  return mapping_->memory->data() + place.slices_at + layer * place.slice_bytes;
}

ShmFetchStream::Check ShmFetchStream::CheckSlice(size_t target, uint32_t layer,
                                                 const ShmPlace& place, const Lease& lease) const {
  const std::byte* bytes = SharedSlice(place, layer);
  if (targets_[target].memory != nullptr) {
    std::byte* copy = targets_[target].memory + layer * place.slice_bytes;
    std::memcpy(copy, bytes, place.slice_bytes);
    bytes = copy;
  }
  uint64_t wanted = 0;
  std::memcpy(&wanted, mapping_->memory->data() + place.checksums_at + layer * sizeof(wanted),
              sizeof(wanted));
  const bool right = SliceChecksum({bytes, place.slice_bytes}) == wanted;
  // After all reads. Without the lease neither answer means anything.
  if (!IsLeaseHeld(*mapping_->lease_table, lease)) return Check::kLost;
  return right ? Check::kRight : Check::kWrong;
}

}  // namespace tessera
