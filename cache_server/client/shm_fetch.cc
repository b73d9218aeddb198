#include "cache_server/client/shm_fetch.h"

#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "glog/logging.h"

namespace tessera {

ShmFetchStream::ShmFetchStream(ShmLink* link, std::shared_ptr<CallOutcomes> outcomes,
                               std::unique_ptr<ShmConnection> connection,
                               std::vector<FetchTarget> targets, ShmFetchOptions options)
    : link_(link),
      outcomes_(std::move(outcomes)),
      mapping_(connection->mapping()),
      targets_(std::move(targets)),
      options_(std::move(options)),
      call_(connection->NextCall()),
      connection_(std::move(connection)),
      pieces_(targets_.size()) {}

ShmFetchStream::~ShmFetchStream() {
  link_->sockets().Remove(connection_->socket());
  link_->StopRenewing(connection_.get());
  link_->verifiers().Remove(this);
  bool reusable = false;
  {
    absl::MutexLock lock(&mutex_);
    CHECK(!reading_ && checking_ == 0) << "a stream ends while somebody waits for it";
    reusable = answered_ && !cancelled_ && (!broken_ || refused_);
    if (reusable && lease_.id != 0) {
      const ShmPacket release = MakeShmPacket(ShmType::kRelease, lease_.id);
      reusable = connection_->Send(release, absl::InfinitePast()).ok();
    }
  }
  link_->Give(std::move(connection_), reusable);
}

void ShmFetchStream::Start() {
  std::vector<ChunkKey> keys;
  keys.reserve(targets_.size());
  for (const FetchTarget& target : targets_) keys.push_back(target.key);
  const ShmAcquire acquire = {.stop_at_first_miss = options_.stop_at_first_miss ? 1u : 0u};
  const ShmPacket packet =
      MakeShmPacket(ShmType::kAcquire, call_, acquire, absl::MakeConstSpan(keys));
  absl::Status started = connection_->NameRequest(options_.request_id, absl::InfinitePast());
  if (started.ok()) started = connection_->Send(packet, absl::InfinitePast());
  if (started.ok() && options_.on_progress) {
    started = link_->sockets().Add(connection_->socket(), [this] {
      link_->verifiers().Wake(this);
      Tell();
    });
  }
  absl::MutexLock lock(&mutex_);
  if (!started.ok()) Break(started);
}

void ShmFetchStream::ReadUntil(absl::FunctionRef<bool()> done, Patience patience) {
  const bool may_wait = patience == Patience::kUntilDeadline;
  while (!done() && !Over()) {
    const absl::Time until = answered_ ? options_.deadline : options_.acquire_deadline;
    if (absl::Now() >= options_.deadline) return;
    if (reading_ && !may_wait) return;
    if (reading_) {
      // Another thread reads, and takes in what comes for all.
      auto changed = [this, &done]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return !reading_ || done() || Over();
      };
      mutex_.AwaitWithDeadline(absl::Condition(&changed), options_.deadline);
      continue;
    }
    reading_ = true;
    mutex_.Unlock();
    const auto packet = connection_->Receive(may_wait ? until : absl::InfinitePast());
    mutex_.Lock();
    reading_ = false;
    if (cancelled_) return;
    absl::Status status = packet.status();
    if (packet.ok()) status = Take(*packet);
    if (absl::IsDeadlineExceeded(status)) {
      if (absl::Now() < until) return;
      // Late news of pieces are no failure: whoever waits for them has waited long enough.
      if (answered_) continue;
    }
    if (!status.ok()) Break(status);
    Tell();
  }
}

absl::Status ShmFetchStream::Take(absl::Span<const std::byte> packet) {
  ASSIGN_OR_RETURN(const ShmHead head, ReadShmHead(packet));
  switch (static_cast<ShmType>(head.type)) {
    case ShmType::kAcquired:
      if (head.call != call_ || answered_)
        return absl::InvalidArgumentError("an answer to nothing");
      return TakeAcquired(packet);
    case ShmType::kLoaded:
      // For the call that used this connection before, and did not wait for all it had asked for.
      if (!answered_ || head.call != lease_.id) return absl::OkStatus();
      return TakeLoaded(packet);
    case ShmType::kFailed: {
      ASSIGN_OR_RETURN(const std::string why, ReadShmText(packet));
      answered_ = true;
      refused_ = head.call == call_;
      return absl::ResourceExhaustedError(why);
    }
    default:
      return absl::InvalidArgumentError("a packet of a type that no server sends now");
  }
}

absl::Status ShmFetchStream::TakeAcquired(absl::Span<const std::byte> packet) {
  ASSIGN_OR_RETURN(const ShmLease lease,
                   (ReadShmFixed<ShmLease, ShmPlace>(packet, targets_.size())));
  ASSIGN_OR_RETURN(const std::vector<ShmPlace> places,
                   (ReadShmRecords<ShmPlace, ShmLease>(packet, targets_.size())));
  if (places.size() != targets_.size()) return absl::InvalidArgumentError("too few places");
  lease_ = {.id = lease.id, .slot = lease.slot};
  for (size_t i = 0; i < places.size(); ++i) RETURN_IF_ERROR(SetPlace(i, places[i]));
  answered_ = true;
  if (lease_.id != 0) link_->StartRenewing(connection_.get(), lease_.id, options_.use_deadline);
  link_->verifiers().Wake(this);
  return absl::OkStatus();
}

absl::Status ShmFetchStream::TakeLoaded(absl::Span<const std::byte> packet) {
  ASSIGN_OR_RETURN(const std::vector<ShmLoaded> all,
                   ReadShmRecords<ShmLoaded>(packet, targets_.size()));
  for (const ShmLoaded& loaded : all) {
    if (loaded.index >= pieces_.size()) return absl::InvalidArgumentError("an unknown piece");
    if (pieces_[loaded.index].state != ShmState::kPending) continue;
    RETURN_IF_ERROR(SetPlace(loaded.index, loaded.place));
    const bool gone = pieces_[loaded.index].state == ShmState::kMiss;
    if (!gone || !options_.stop_at_first_miss) continue;
    for (size_t i = loaded.index + 1; i < pieces_.size(); ++i) pieces_[i].failed = true;
  }
  link_->verifiers().Wake(this);
  return absl::OkStatus();
}

absl::Status ShmFetchStream::SetPlace(size_t target, const ShmPlace& place) {
  Piece& piece = pieces_[target];
  const auto state = static_cast<ShmState>(place.state);
  const bool right_sizes =
      place.layers == targets_[target].layers && place.slice_bytes == targets_[target].slice_bytes;
  const bool here = state == ShmState::kHere;
  if (here && !ShmPlaceFits(place, mapping_->memory->size())) {
    return absl::InvalidArgumentError("a place outside the memory");
  }
  const bool usable = right_sizes && (here || state == ShmState::kPending);
  piece.state = usable ? state : ShmState::kMiss;
  piece.place = usable ? place : ShmPlace();
  return absl::OkStatus();
}

void ShmFetchStream::Break(const absl::Status& why) {
  broken_ = true;
  // A refusal (too many leases, or a server that drains) is an answer; the rest is a failure.
  if (!refused_) link_->Fail(*connection_, why);
  LOG_EVENT_LIMITED(kWarning, "shm_fetch_broken")
      .With("request", options_.request_id)
      .With("keys", targets_.size())
      .WithError(why);
  TryFallBack();
  if (fallback_ == nullptr) outcomes_->ShmFetchFailed();
}

void ShmFetchStream::LoseLease() {
  if (!lease_lost_ && !cancelled_) outcomes_->LeaseLost();
  lease_lost_ = true;
  TryFallBack();
}

void ShmFetchStream::TryFallBack() {
  const auto may = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return fallback_ == nullptr && !cancelled_ && !handed_out_ && absl::Now() < options_.deadline;
  };
  if (falling_back_ || !may()) return;
  // Who still checks a slice may write where the other fetch will. It does not take long, and no
  // new check begins.
  falling_back_ = true;
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return checking_ == 0; };
  mutex_.Await(absl::Condition(&idle));
  falling_back_ = false;
  if (may()) {
    outcomes_->ShmFellBack();
    fallback_ = options_.fall_back();
  }
  Tell();
}

void ShmFetchStream::AwaitFallBack() {
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !falling_back_; };
  mutex_.Await(absl::Condition(&over));
}

void ShmFetchStream::ReadHeader(Patience patience) {
  ReadUntil([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return answered_; }, patience);
}

std::vector<std::string> ShmFetchStream::WaitForHeader() {
  FetchStream* fallback = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    ReadHeader(Patience::kUntilDeadline);
    AwaitFallBack();
    fallback = fallback_.get();
    if (fallback == nullptr) {
      std::vector<std::string> tiers;
      for (const Piece& piece : pieces_) tiers.push_back(ReadShmName(piece.place.tier));
      return tiers;
    }
  }
  return fallback->WaitForHeader();
}

bool ShmFetchStream::HeaderReady() {
  FetchStream* fallback = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    ReadHeader(Patience::kNone);
    if (falling_back_) return false;
    fallback = fallback_.get();
    if (fallback == nullptr) return answered_ || Over() || absl::Now() >= options_.deadline;
  }
  return fallback->HeaderReady();
}

std::optional<bool> ShmFetchStream::Verdict(size_t target, uint32_t layer, Patience patience) {
  CHECK_LT(target, targets_.size());
  FetchStream* fallback = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    ReadHeader(patience);
    const Piece& piece = pieces_[target];
    auto known = [this, &piece]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return answered_ && (piece.state != ShmState::kPending || piece.failed);
    };
    if (answered_) ReadUntil(known, patience);
    if (patience == Patience::kUntilDeadline) {
      AwaitFallBack();
    } else if (falling_back_ || IsToBeVerified(target, layer)) {
      return std::nullopt;
    }
    const bool final = known() || Over() || absl::Now() >= options_.deadline;
    const bool ready = final && fallback_ == nullptr && MakeReady(target, layer);
    fallback = fallback_.get();
    if (fallback == nullptr) return final ? std::optional<bool>(ready) : std::nullopt;
  }
  if (patience == Patience::kNone && !fallback->SliceReady(target, layer)) return std::nullopt;
  return fallback->WaitForSlice(target, layer);
}

bool ShmFetchStream::WaitForSlice(size_t target, uint32_t layer) {
  return Verdict(target, layer, Patience::kUntilDeadline).value_or(false);
}

bool ShmFetchStream::SliceReady(size_t target, uint32_t layer) {
  return Verdict(target, layer, Patience::kNone).has_value();
}

absl::Time ShmFetchStream::ready_by() {
  FetchStream* fallback = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    fallback = fallback_.get();
    if (fallback == nullptr) return answered_ ? options_.deadline : options_.acquire_deadline;
  }
  return fallback->ready_by();
}

uint32_t ShmFetchStream::ReadyLayers(size_t target) {
  FetchStream* fallback = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    fallback = fallback_.get();
    if (fallback == nullptr) {
      const uint32_t ready = answered_ && !falling_back_ ? pieces_[target].ready_layers : 0;
      return ready > 0 && MakeReady(target, ready - 1) ? ready : 0;
    }
  }
  return fallback->ReadyLayers(target);
}

absl::Span<const std::byte> ShmFetchStream::Slices(size_t target, uint32_t first_layer,
                                                   uint32_t layers) {
  FetchStream* fallback = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    fallback = fallback_.get();
    if (fallback == nullptr) {
      CHECK_LE(first_layer + layers, pieces_[target].ready_layers)
          << "a slice that was not waited for";
      const FetchTarget& wanted = targets_[target];
      const std::byte* bytes = wanted.memory == nullptr
                                   ? SharedSlice(pieces_[target].place, first_layer)
                                   : wanted.memory + first_layer * wanted.slice_bytes;
      return {bytes, layers * wanted.slice_bytes};
    }
  }
  return fallback->Slices(target, first_layer, layers);
}

bool ShmFetchStream::LeaseHeld() {
  absl::MutexLock lock(&mutex_);
  // Copies are the caller's own, whatever became of the lease.
  if (fallback_ != nullptr || !shows_shared_) return true;
  if (!lease_lost_ && IsLeaseHeld(*mapping_->lease_table, lease_)) return true;
  LoseLease();
  return false;
}

void ShmFetchStream::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  connection_->Shutdown();  // wakes who reads
  if (fallback_ != nullptr) fallback_->Cancel();
  Tell();
}

}  // namespace tessera
