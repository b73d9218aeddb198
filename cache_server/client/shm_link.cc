#include "cache_server/client/shm_link.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "glog/logging.h"

namespace tessera {

ShmLink::ShmLink(const ShmLinkOptions& options, std::string token, Ask ask)
    : options_(options),
      token_(std::move(token)),
      ask_(std::move(ask)),
      thread_([this] { Loop(); }) {}

ShmLink::~ShmLink() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    wake_ = true;
  }
  thread_.join();
  CHECK_EQ(taken_, 0u) << "a call outlives its client";
}

void ShmLink::AskIfDue() {
  {
    absl::MutexLock lock(&mutex_);
    if (state_ != State::kUnknown || absl::Now() < not_before_) return;
    state_ = State::kAsking;
  }
  ask_([this](absl::StatusOr<ShmAddress> address) { Locate(std::move(address)); });
}

void ShmLink::Locate(absl::StatusOr<ShmAddress> address) {
  absl::MutexLock lock(&mutex_);
  if (!address.ok()) {
    // gRPC is what failed, and its own calls say so.
    Forget(absl::NotFoundError("the server was not asked yet"));
  } else if (address->socket.empty()) {
    Forget(absl::NotFoundError("the server offers no shared memory"));
  } else {
    address_ = *std::move(address);
    address_.token = token_;
    state_ = State::kLocated;
    wake_ = true;
  }
}

void ShmLink::Forget(const absl::Status& why) {
  idle_.clear();
  // Left to the thread, since its end may take long.
  if (mapping_ != nullptr) forgotten_.push_back(std::exchange(mapping_, nullptr));
  wake_ = true;
  state_ = State::kUnknown;
  failure_ = why;
  pause_ = std::clamp(2 * pause_, options_.first_pause, options_.longest_pause);
  not_before_ = absl::Now() + pause_;
  if (!absl::IsNotFound(why)) {
    LOG_EVENT_LIMITED(kWarning, "shm_failed").WithMs("retry_ms", pause_).WithError(why);
  }
}

absl::StatusOr<std::unique_ptr<ShmConnection>> ShmLink::Take() {
  AskIfDue();
  ShmAddress address;
  std::shared_ptr<const ShmMapping> known;
  {
    absl::MutexLock lock(&mutex_);
    if (state_ != State::kReady) {
      return failure_.ok() ? absl::NotFoundError("not found yet") : failure_;
    }
    if (taken_ >= options_.most_connections) {
      return absl::NotFoundError("all connections are in use");
    }
    ++taken_;
    if (!idle_.empty()) {
      std::unique_ptr<ShmConnection> connection = std::move(idle_.back());
      idle_.pop_back();
      return connection;
    }
    address = address_;
    known = mapping_;
  }
  absl::StatusOr<std::unique_ptr<ShmConnection>> opened =
      ShmConnection::Open(address, known, absl::Now() + options_.open_timeout);
  absl::MutexLock lock(&mutex_);
  if (opened.ok() && (*opened)->mapping() == known) return opened;
  --taken_;
  if (opened.ok()) opened = absl::UnavailableError("the server was replaced");
  if (mapping_ == known && state_ == State::kReady) Forget(opened.status());
  return opened.status();
}

void ShmLink::WaitUntilAsked(absl::Time deadline) {
  AskIfDue();
  absl::MutexLock lock(&mutex_);
  auto asked = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return state_ == State::kReady || state_ == State::kUnknown;
  };
  mutex_.AwaitWithDeadline(absl::Condition(&asked), deadline);
}

void ShmLink::Give(std::unique_ptr<ShmConnection> connection, bool reusable) {
  absl::MutexLock lock(&mutex_);
  --taken_;
  // One of a server that was forgotten since is of no use.
  if (reusable && state_ == State::kReady && connection->mapping() == mapping_) {
    idle_.push_back(std::move(connection));
  }
}

void ShmLink::Fail(const ShmConnection& connection, const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  if (state_ == State::kReady && connection.mapping() == mapping_) {
    Forget(absl::UnavailableError(why.message()));
  }
}

void ShmLink::StartRenewing(ShmConnection* connection, uint64_t lease, absl::Time until) {
  absl::MutexLock lock(&mutex_);
  renewals_[connection] = {lease, until};
}

void ShmLink::StopRenewing(ShmConnection* connection) {
  absl::MutexLock lock(&mutex_);
  renewals_.erase(connection);
}

void ShmLink::RenewAll(absl::Time now) {
  absl::erase_if(renewals_, [now](const auto& entry) { return entry.second.until <= now; });
  for (const auto& [connection, renewal] : renewals_) {
    // What cannot be sent is seen by who reads: the lease will not be held.
    (void)connection->Send(MakeShmPacket(ShmType::kRenew, renewal.lease), absl::InfinitePast());
  }
}

void ShmLink::ConnectFirst() {
  const ShmAddress address = address_;
  mutex_.Unlock();
  absl::StatusOr<std::unique_ptr<ShmConnection>> opened =
      ShmConnection::Open(address, nullptr, absl::Now() + options_.open_timeout);
  if (opened.ok()) (*opened)->mapping()->Tell(options_.read_memory);
  mutex_.Lock();
  if (!opened.ok()) return Forget(opened.status());
  mapping_ = (*opened)->mapping();
  idle_.push_back(*std::move(opened));
  state_ = State::kReady;
  failure_ = absl::OkStatus();
  pause_ = absl::ZeroDuration();
  // Often enough that two may be late.
  renew_every_ = absl::Milliseconds(static_cast<int64_t>(mapping_->welcome.lease_ms)) / 3;
  LOG_EVENT(kInfo, "shm_linked")
      .With("socket", address.socket)
      .With("memory_bytes", mapping_->memory->size());
}

void ShmLink::Loop() {
  absl::MutexLock lock(&mutex_);
  absl::Time renew_at = absl::InfiniteFuture();
  while (true) {
    mutex_.AwaitWithDeadline(absl::Condition(&wake_), renew_at);
    wake_ = false;
    if (stopping_) return;
    auto forgotten = std::exchange(forgotten_, {});
    mutex_.Unlock();
    forgotten.clear();
    mutex_.Lock();
    if (state_ == State::kLocated) ConnectFirst();
    RenewAll(absl::Now());
    // A lease that begins between two rounds is renewed in time by the next: nobody has to wake
    // this thread for it.
    const bool idle = state_ != State::kReady && renewals_.empty();
    renew_at = idle ? absl::InfiniteFuture() : absl::Now() + renew_every_;
  }
}

}  // namespace tessera
