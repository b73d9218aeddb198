#include "cache_server/service/shm_session.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cache_server/chunk/checksum.h"

namespace tessera {
namespace {

// How long a new client may take to say who it is, and any client to make room for an answer that
// it asked for.
constexpr absl::Duration kHelloPatience = absl::Seconds(5);
constexpr absl::Duration kSendPatience = absl::Seconds(1);

// Takes as long for a token that differs in its last byte as in its first.
bool IsToken(const std::string& given, const std::string& wanted) {
  return given.size() == wanted.size() &&
         CRYPTO_memcmp(given.data(), wanted.data(), wanted.size()) == 0;
}

}  // namespace

ShmSession::ShmSession(OwnedFd socket, std::shared_ptr<Waker> waker, ShmContext* context,
                       std::function<void()> on_end)
    : context_(context),
      socket_(std::move(socket)),
      waker_(std::move(waker)),
      on_end_(std::move(on_end)),
      buffer_(kMaxShmPacketBytes) {
  context_->sessions.fetch_add(1);
  thread_ = std::thread([this] { Run(); });
}

ShmSession::~ShmSession() {
  Stop();
  thread_.join();
}

void ShmSession::Stop() {
  stopping_.store(true);
  // Ends a send that waits, too; the descriptor stays until the thread is gone.
  shutdown(socket_.get(), SHUT_RDWR);
  waker_->Wake();
}

void ShmSession::Run() {
  absl::Status status = Greet();
  if (status.ok()) status = Serve();
  if (!stopping_.load() && !absl::IsUnavailable(status)) {
    LOG_EVENT_LIMITED(kWarning, "shm_session_cut").WithError(status);
  }
  while (!leases_.empty()) End(leases_.begin());
  staging_.Reset();
  shutdown(socket_.get(), SHUT_RDWR);
  context_->sessions.fetch_sub(1);
  ended_.store(true);
  on_end_();
}

absl::Status ShmSession::Greet() {
  const absl::Time deadline = absl::Now() + kHelloPatience;
  ASSIGN_OR_RETURN(const ReceivedPacket packet,
                   ReceivePacket(socket_.get(), absl::MakeSpan(buffer_), deadline));
  const auto bytes = absl::MakeConstSpan(buffer_).first(packet.bytes);
  ASSIGN_OR_RETURN(const ShmHead head, ReadShmHead(bytes));
  ASSIGN_OR_RETURN(const std::string token, ReadShmText(bytes));
  if (head.type != static_cast<uint32_t>(ShmType::kHello) || head.call != kShmVersion) {
    (void)SendFailed(head.call, "this server speaks another version of the protocol");
    return absl::InvalidArgumentError("no hello of this version");
  }
  const ShmServerOptions& options = context_->options;
  if (!options.token.empty() && !IsToken(token, options.token)) {
    context_->refused.fetch_add(1);
    (void)SendFailed(head.call, "the token is missing or wrong");
    return absl::UnauthenticatedError("a missing or wrong token");
  }
  const ShmWelcome welcome = {
      .memory_bytes = context_->memory->size(),
      .lease_ms = static_cast<uint64_t>(absl::ToInt64Milliseconds(options.lease)),
      .max_slice_bytes = options.max_slice_bytes,
      .most_keys = static_cast<uint32_t>(options.max_keys_per_call),
      .lease_slots = context_->leases->slots(),
      .instance = ShmName<32>(options.instance_id)};
  const int fds[] = {context_->memory->fd(), context_->leases->memory().fd()};
  return Send(MakeShmPacket(ShmType::kWelcome, kShmVersion, welcome), fds);
}

absl::Status ShmSession::Serve() {
  while (!stopping_.load()) {
    if (WaitForPacket()) RETURN_IF_ERROR(TakePacket());
    SendLoaded();
    EndExpired();
    RETURN_IF_ERROR(failure_);
  }
  return absl::OkStatus();
}

bool ShmSession::WaitForPacket() {
  absl::Time wake = absl::InfiniteFuture();
  for (const auto& [id, held] : leases_) wake = std::min(wake, held.end);
  const short socket_events = POLLIN | (blocked_ ? POLLOUT : 0);
  pollfd entries[] = {{.fd = socket_.get(), .events = socket_events, .revents = 0},
                      {.fd = waker_->fd(), .events = POLLIN, .revents = 0}};
  const absl::Duration left = std::max(wake - absl::Now(), absl::ZeroDuration());
  const timespec wait = absl::ToTimespec(std::min(left, absl::Hours(1)));
  if (ppoll(entries, 2, &wait, nullptr) <= 0) return false;
  if (entries[1].revents != 0) waker_->Clear();
  return (entries[0].revents & ~POLLOUT) != 0;
}

absl::Status ShmSession::TakePacket() {
  ASSIGN_OR_RETURN(ReceivedPacket packet,
                   ReceivePacket(socket_.get(), absl::MakeSpan(buffer_), absl::InfinitePast()));
  const auto bytes = absl::MakeConstSpan(buffer_).first(packet.bytes);
  ASSIGN_OR_RETURN(const ShmHead head, ReadShmHead(bytes));
  const auto type = static_cast<ShmType>(head.type);
  if (type == ShmType::kStaging) {
    RETURN_IF_ERROR(ReadShmFixed<ShmNothing>(bytes).status());
    return SetStaging(std::move(packet.fds));
  }
  if (!packet.fds.empty()) return absl::InvalidArgumentError("a descriptor that nobody asked for");
  return Handle(type, head.call, bytes);
}

absl::Status ShmSession::Handle(ShmType type, uint64_t call, absl::Span<const std::byte> packet) {
  switch (type) {
    case ShmType::kAcquire:
      return Acquire(call, packet);
    case ShmType::kRenew:
      RETURN_IF_ERROR(ReadShmFixed<ShmNothing>(packet).status());
      Renew(call);
      return absl::OkStatus();
    case ShmType::kRelease: {
      RETURN_IF_ERROR(ReadShmFixed<ShmNothing>(packet).status());
      const auto held = leases_.find(call);
      if (held != leases_.end()) End(held);  // else it has expired
      return absl::OkStatus();
    }
    case ShmType::kFind:
      return Find(call, packet);
    case ShmType::kPut:
      return Put(call, packet);
    case ShmType::kErase:
      return Erase(packet);
    case ShmType::kRequest: {
      ASSIGN_OR_RETURN(const std::string id, ReadShmText(packet));
      calls_.NameRequest(id);
      return absl::OkStatus();
    }
    default:
      return absl::InvalidArgumentError("a packet of a type that no client sends");
  }
}

ShmPlace ShmSession::PlaceOf(const ReadHandle& handle, const std::string& tier) const {
  const PieceShape shape = handle.shape();
  const SharedMemory& memory = *context_->memory;
  const std::byte* slices = handle.slice(0).data();
  const auto* checksums = reinterpret_cast<const std::byte*>(handle.checksums());
  const bool shared =
      memory.Contains(slices, shape.bytes()) &&
      handle.slice(shape.layers - 1).data() == slices + (shape.layers - 1) * shape.slice_bytes &&
      memory.Contains(checksums, shape.layers * sizeof(uint64_t));
  if (!shared) return {};
  return {.state = static_cast<uint32_t>(ShmState::kHere),
          .layers = shape.layers,
          .slice_bytes = shape.slice_bytes,
          .slices_at = static_cast<uint64_t>(slices - memory.data()),
          .checksums_at = static_cast<uint64_t>(checksums - memory.data()),
          .tier = ShmName<16>(tier)};
}

ShmPlace ShmSession::PlaceOf(const FetchPieces& pieces, size_t piece) const {
  switch (pieces.state(piece)) {
    case FetchPieces::State::kReady:
      return PlaceOf(pieces.handle(piece), pieces.tier(piece));
    case FetchPieces::State::kLoading:
      return {.state = static_cast<uint32_t>(ShmState::kPending),
              .layers = pieces.shape(piece).layers,
              .slice_bytes = pieces.shape(piece).slice_bytes,
              .tier = ShmName<16>(pieces.tier(piece))};
    case FetchPieces::State::kMiss:
    case FetchPieces::State::kLost:
      break;
  }
  return {};
}

absl::Status ShmSession::Acquire(uint64_t call, absl::Span<const std::byte> packet) {
  const size_t most = context_->options.max_keys_per_call;
  ASSIGN_OR_RETURN(const ShmAcquire acquire, (ReadShmFixed<ShmAcquire, ChunkKey>(packet, most)));
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys,
                   (ReadShmRecords<ChunkKey, ShmAcquire>(packet, most)));
  if (context_->draining.load()) return SendFailed(call, "the server drains");
  const absl::Time start = absl::Now();
  HeldLease held;
  held.pieces = FetchPieces::Start(context_->store, keys, acquire.stop_at_first_miss != 0);
  std::vector<ShmPlace> places(keys.size());
  uint64_t bytes = 0;
  bool found = false;
  for (size_t i = 0; i < keys.size(); ++i) {
    places[i] = PlaceOf(*held.pieces, i);
    const auto state = static_cast<ShmState>(places[i].state);
    found = found || state != ShmState::kMiss;
    if (state == ShmState::kPending) held.loading.push_back(static_cast<uint32_t>(i));
    if (state == ShmState::kHere) bytes += places[i].layers * places[i].slice_bytes;
    (state == ShmState::kMiss ? context_->missing_pieces : context_->found_pieces).fetch_add(1);
  }
  calls_.Fetched(*held.pieces, bytes, start);
  ShmLease answer;
  if (found) {
    const absl::StatusOr<Lease> lease = context_->leases->Take();
    if (!lease.ok()) return SendFailed(call, "too many leases");
    held.lease = *lease;
    held.end = absl::Now() + context_->options.lease;
    answer = {.id = lease->id, .slot = lease->slot};
    leases_.emplace(lease->id, std::move(held));
  }
  context_->served_bytes.fetch_add(bytes);
  return Send(MakeShmPacket(ShmType::kAcquired, call, answer, absl::MakeConstSpan(places)));
}

void ShmSession::SendLoaded() {
  blocked_ = false;
  for (auto& [id, held] : leases_) {
    const absl::StatusOr<bool> sent = SendLoaded(&held);
    if (!sent.ok()) failure_ = sent.status();
    if (!sent.ok() || !*sent) return;
  }
}

// Tells of the pieces in the order asked, all that are decided in one packet: what the client has
// not read yet never grows with what is loaded.
absl::StatusOr<bool> ShmSession::SendLoaded(HeldLease* held) {
  std::vector<ShmLoaded> loaded;
  uint64_t bytes = 0;
  for (size_t next = held->next; next < held->loading.size(); ++next) {
    const uint32_t index = held->loading[next];
    if (held->pieces->WakeWhenLoaded(index, [waker = waker_] { waker->Wake(); })) break;
    const ShmPlace place = PlaceOf(*held->pieces, index);
    bytes += place.layers * place.slice_bytes;
    loaded.push_back({.index = index, .place = place});
  }
  if (loaded.empty()) return true;
  const ShmPacket packet =
      MakeShmPacket(ShmType::kLoaded, held->lease.id, ShmNothing(), absl::MakeConstSpan(loaded));
  // Counted first: who has read the packet finds it in the counters.
  context_->served_bytes.fetch_add(bytes);
  const absl::Status sent = SendPacket(socket_.get(), packet, {}, absl::InfinitePast());
  if (!sent.ok()) context_->served_bytes.fetch_sub(bytes);
  blocked_ = absl::IsDeadlineExceeded(sent);
  if (blocked_) return false;  // tried again when the client reads; its lease bounds the wait
  RETURN_IF_ERROR(sent);
  held->next += loaded.size();
  return true;
}

void ShmSession::Renew(uint64_t id) {
  const auto held = leases_.find(id);
  if (held == leases_.end()) return;  // expired: the client sees it in the table
  held->second.end = absl::Now() + context_->options.lease;
}

// The order is the promise (lease_table.h): the slot first, then the pins.
void ShmSession::End(HeldLeases::iterator held) {
  context_->leases->End(held->second.lease);
  leases_.erase(held);
}

void ShmSession::EndExpired() {
  const absl::Time now = absl::Now();
  for (auto held = leases_.begin(); held != leases_.end();) {
    const auto next = std::next(held);
    if (held->second.end <= now) {
      context_->expired_leases.fetch_add(1);
      LOG_EVENT_LIMITED(kWarning, "shm_lease_expired").With("pieces", held->second.pieces->size());
      End(held);
    }
    held = next;
  }
}

absl::Status ShmSession::Find(uint64_t call, absl::Span<const std::byte> packet) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys,
                   ReadShmRecords<ChunkKey>(packet, context_->options.max_keys_per_call));
  const absl::Time start = absl::Now();
  const std::vector<ChunkKey> missing = context_->store->FindMissing(keys);
  calls_.Looked(keys.size(), missing.size(), start);
  // The missing keys stand in the order asked.
  std::vector<uint8_t> present(keys.size(), 1);
  size_t next = 0;
  for (size_t i = 0; i < keys.size() && next < missing.size(); ++i) {
    if (keys[i] != missing[next]) continue;
    present[i] = 0;
    ++next;
  }
  return Send(MakeShmPacket(ShmType::kFound, call, ShmNothing(), absl::MakeConstSpan(present)));
}

absl::Status ShmSession::Erase(absl::Span<const std::byte> packet) {
  ASSIGN_OR_RETURN(const std::vector<ChunkKey> keys,
                   ReadShmRecords<ChunkKey>(packet, context_->options.max_keys_per_call));
  for (const ChunkKey& key : keys) {
    LOG_EVENT_LIMITED(kWarning, "shm_erase")
        .With("key", key.ToHex())
        .With("msg", "a client found this piece damaged");
    (void)context_->store->Erase(key);
  }
  return absl::OkStatus();
}

// The staging memory is read with pread, never mapped: whatever its owner does to it, a read gives
// bytes or an error, and no signal.
absl::Status ShmSession::SetStaging(std::vector<OwnedFd> fds) {
  if (fds.size() != 1) return absl::InvalidArgumentError("staging memory is one descriptor");
  // Only a memfd has seals; a read of anything else might wait for ever.
  struct stat file = {};
  const int seals = fcntl(fds[0].get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fds[0].get(), &file) != 0) {
    return absl::InvalidArgumentError("staging memory must be a memfd, sealed against shrinking");
  }
  staging_ = std::move(fds[0]);
  staging_bytes_ = static_cast<uint64_t>(file.st_size);
  return absl::OkStatus();
}

absl::Status ShmSession::ReadStaged(uint64_t at, absl::Span<std::byte> target) const {
  while (!target.empty()) {
    const ssize_t got = pread(staging_.get(), target.data(), target.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return absl::InvalidArgumentError("staged bytes cannot be read");
    at += static_cast<uint64_t>(got);
    target.remove_prefix(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::Status ShmSession::Put(uint64_t call, absl::Span<const std::byte> packet) {
  ASSIGN_OR_RETURN(const ShmPut put, ReadShmFixed<ShmPut>(packet));
  const uint64_t staged = ShmStagedBytes(put.layers, put.slice_bytes);
  if (staged == 0 || staged > staging_bytes_ || put.at > staging_bytes_ - staged) {
    return absl::InvalidArgumentError("a piece outside the staging memory");
  }
  if (context_->draining.load()) return SendFailed(call, "the server drains");
  const absl::Time start = absl::Now();
  ASSIGN_OR_RETURN(const ShmPutResult result, StorePiece(put));
  const uint64_t bytes = result == ShmPutResult::kStored ? put.layers * put.slice_bytes : 0;
  context_->put_bytes.fetch_add(bytes);
  calls_.Put(bytes, result == ShmPutResult::kAlreadyPresent, start);
  return Send(MakeShmPacket(ShmType::kPutDone, call, ShmPutDone{static_cast<uint32_t>(result)}));
}

// The client may change its memory at any time, so the copy is what is verified.
absl::StatusOr<ShmPutResult> ShmSession::StorePiece(const ShmPut& put) {
  if (put.slice_bytes > context_->options.max_slice_bytes) return ShmPutResult::kRejected;
  absl::StatusOr<WriteHandle> room = context_->store->Allocate(
      put.key, {.layers = put.layers, .slice_bytes = put.slice_bytes}, Tenant{put.tenant});
  if (absl::IsAlreadyExists(room.status())) return ShmPutResult::kAlreadyPresent;
  if (!room.ok()) return ShmPutResult::kRejected;
  std::vector<uint64_t> checksums(put.layers);
  RETURN_IF_ERROR(ReadStaged(put.at + put.layers * put.slice_bytes,
                             absl::MakeSpan(reinterpret_cast<std::byte*>(checksums.data()),
                                            checksums.size() * sizeof(uint64_t))));
  for (uint32_t layer = 0; layer < put.layers; ++layer) {
    const absl::Span<std::byte> slice = room->slice(layer);
    RETURN_IF_ERROR(ReadStaged(put.at + layer * put.slice_bytes, slice));
    if (SliceChecksum(slice) != checksums[layer]) {
      context_->checksum_failures.fetch_add(1);
      return ShmPutResult::kDataLoss;
    }
    room->set_checksum(layer, checksums[layer]);
  }
  const absl::Status committed = context_->store->Commit(*std::move(room));
  if (absl::IsAlreadyExists(committed)) return ShmPutResult::kAlreadyPresent;
  return committed.ok() ? ShmPutResult::kStored : ShmPutResult::kRejected;
}

absl::Status ShmSession::Send(const ShmPacket& packet, absl::Span<const int> fds) {
  return SendPacket(socket_.get(), packet, fds, absl::Now() + kSendPatience);
}

absl::Status ShmSession::SendFailed(uint64_t call, const char* why) {
  return Send(MakeShmText(ShmType::kFailed, call, why));
}

}  // namespace tessera
