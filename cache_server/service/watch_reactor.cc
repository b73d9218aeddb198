#include "cache_server/service/watch_reactor.h"

#include <string>
#include <utility>

namespace tessera {
namespace {

constexpr size_t kQueuedEvents = 4096;

void Fill(const KeyEvent& event, cache::v1::WatchEvent* message) {
  message->Clear();
  message->set_kind(event.added ? cache::v1::WatchEvent::ADDED : cache::v1::WatchEvent::EVICTED);
  message->set_key(std::string(event.key.AsBytes()));
  message->set_tier(event.tier);
  if (!event.added) message->set_reason(EvictionReasonName(event.reason));
}

}  // namespace

WatchReactor::WatchReactor(StreamWatch* watch, KeyEvents* events, ThreadPool* pool)
    : watch_(watch),
      events_(events),
      doorbell_(std::make_shared<Doorbell>()),
      watcher_(kQueuedEvents, [pool, doorbell = doorbell_] {
        pool->TryRun([doorbell] {
          absl::MutexLock lock(&doorbell->mutex);
          if (doorbell->reactor != nullptr) doorbell->reactor->Ring();
        });
      }) {
  absl::MutexLock lock(&doorbell_->mutex);
  doorbell_->reactor = this;
}

void WatchReactor::Start() {
  entered_ = true;
  // The stream watch bounds how many there are.
  events_->Add(&watcher_, SIZE_MAX);
  // The answer's head tells the caller that whatever happens from now on will be told.
  StartSendInitialMetadata();
}

void WatchReactor::Refuse(const grpc::Status& status) { Finish(status); }

void WatchReactor::Ring() {
  absl::MutexLock lock(&mutex_);
  if (!finished_ && !sending_) SendNext();
}

void WatchReactor::SendNext() {
  if (!delayed_) {
    KeyEvent event;
    if (!watcher_.Pop(&event)) return;
    delayed_ = std::move(event);
  }
  if (delayed_->missed > 0) {
    message_.Clear();
    message_.set_kind(cache::v1::WatchEvent::MISSED);
    message_.set_missed(std::exchange(delayed_->missed, 0));
  } else {
    Fill(*delayed_, &message_);
    delayed_.reset();
  }
  sending_ = true;
  StartWrite(&message_);
}

void WatchReactor::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  sending_ = false;
  // When it is not OK the caller has left, and OnCancel ends the stream.
  if (ok && !finished_) SendNext();
}

void WatchReactor::End(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!std::exchange(finished_, true)) Finish(status);
}

void WatchReactor::OnCancel() { End({grpc::StatusCode::CANCELLED, "the watcher has left"}); }

void WatchReactor::Close() { End({grpc::StatusCode::UNAVAILABLE, "the server is stopping"}); }

void WatchReactor::OnDone() {
  if (entered_) {
    events_->Remove(&watcher_);
    watch_->Leave(this);
  }
  {
    absl::MutexLock lock(&doorbell_->mutex);
    doorbell_->reactor = nullptr;
  }
  delete this;
}

}  // namespace tessera
