#include "cache_server/service/fetch_reactor.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "cache_server/service/call_log.h"
#include "cache_server/transfer/byte_buffer.h"
#include "proto/kv_cache.pb.h"

namespace tessera {

using State = FetchPieces::State;

namespace {

grpc::Status Left() { return grpc::Status(grpc::StatusCode::CANCELLED, "the reader has left"); }

}  // namespace

FetchReactor::FetchReactor(grpc::CallbackServerContext* context, StreamWatch* watch,
                           size_t message_bytes, absl::Duration lease, TransportCounters* counters,
                           std::string request_id)
    : context_(context),
      watch_(watch),
      message_bytes_(message_bytes),
      lease_(lease),
      counters_(counters),
      doorbell_(std::make_shared<Doorbell>(this)),
      request_id_(std::move(request_id)),
      last_progress_ns_(absl::GetCurrentTimeNanos()) {}

void FetchReactor::Refuse(const grpc::Status& status) {
  ++counters_->refused_fetches;
  Finish(status);
}

void FetchReactor::Start(std::shared_ptr<FetchPieces> pieces) {
  entered_ = true;
  pieces_ = std::move(pieces);
  ++counters_->fetches;
  for (size_t i = 0; i < pieces_->size(); ++i) {
    const bool found = pieces_->state(i) != State::kMiss;
    ++(found ? counters_->found_pieces : counters_->missing_pieces);
    if (found) layers_ = std::max(layers_, pieces_->shape(i).layers);
  }
  SendHeader();
}

void FetchReactor::SendHeader() {
  cache::v1::FetchResponse response;
  cache::v1::FetchHeader* header = response.mutable_header();
  for (size_t i = 0; i < pieces_->size(); ++i) {
    cache::v1::KeyStatus* key = header->add_keys();
    const State state = pieces_->state(i);
    if (state == State::kMiss || state == State::kLost) continue;
    key->set_found(true);
    key->set_layers(pieces_->shape(i).layers);
    key->set_slice_bytes(pieces_->shape(i).slice_bytes);
    key->set_tier(pieces_->tier(i));
  }
  message_ = EncodeBytes(response.SerializeAsString());
  StartWrite(&message_);
}

bool FetchReactor::FindSlice() {
  for (; layer_ < layers_; ++layer_, piece_ = 0) {
    for (; piece_ < pieces_->size(); ++piece_) {
      const State state = pieces_->state(piece_);
      if (state == State::kMiss || state == State::kLost) continue;
      if (layer_ < pieces_->shape(piece_).layers) return true;
    }
  }
  return false;
}

bool FetchReactor::Park() {
  {
    absl::MutexLock lock(&doorbell_->mutex);
    doorbell_->parked = true;
  }
  const bool loading = pieces_->WakeWhenLoaded(piece_, [doorbell = doorbell_] {
    FetchReactor* reactor = nullptr;
    {
      absl::MutexLock lock(&doorbell->mutex);
      // Whoever takes it out of the park is the one who goes on; OnCancel may have been faster.
      if (!std::exchange(doorbell->parked, false)) return;
      reactor = doorbell->reactor;
    }
    reactor->Touch();
    reactor->SendNext();
  });
  // A cancellation that came before it was parked is not told again.
  if (loading && !context_->IsCancelled()) return true;
  {
    absl::MutexLock lock(&doorbell_->mutex);
    if (!std::exchange(doorbell_->parked, false)) return true;  // somebody else goes on
  }
  if (!context_->IsCancelled()) return false;
  Finish(Left());
  return true;
}

void FetchReactor::SendNext() {
  while (true) {
    if (const size_t lost = pieces_->lost(); lost > told_lost_) {
      counters_->lost_pieces += lost - told_lost_;
      told_lost_ = lost;
      SendHeader();
      return;
    }
    if (!FindSlice()) {
      Finish(grpc::Status::OK);
      return;
    }
    const State state = pieces_->state(piece_);
    if (state == State::kReady) {
      SendSlice();
      return;
    }
    if (state == State::kLoading && Park()) return;
  }
}

void FetchReactor::SendSlice() {
  const ReadHandle& handle = pieces_->handle(piece_);
  const auto payload = handle.slice(layer_).subspan(offset_, message_bytes_);
  const SlicePart part = {.key_index = static_cast<uint32_t>(piece_),
                          .layer = layer_,
                          .offset = offset_,
                          .checksum = handle.checksum(layer_)};
  message_ = EncodeSliceMessage(part, payload, handle.pin());
  counters_->fetched_bytes += payload.size();
  sent_bytes_ += payload.size();
  offset_ += payload.size();
  if (offset_ == handle.slice_bytes()) {
    offset_ = 0;
    ++piece_;
  }
  StartWrite(&message_);
}

void FetchReactor::Touch() {
  last_progress_ns_.store(absl::GetCurrentTimeNanos(), std::memory_order_relaxed);
}

void FetchReactor::OnWriteDone(bool ok) {
  Touch();
  if (!ok || context_->IsCancelled()) {
    Finish(Left());
    return;
  }
  SendNext();
}

void FetchReactor::OnCancel() {
  // While a message is being written, OnWriteDone ends the stream.
  {
    absl::MutexLock lock(&doorbell_->mutex);
    if (!std::exchange(doorbell_->parked, false)) return;
  }
  Finish(Left());
}

void FetchReactor::CheckDeadline(absl::Time now) {
  {
    absl::MutexLock lock(&doorbell_->mutex);
    // It is the disk that is slow, not the reader.
    if (doorbell_->parked) return Touch();
  }
  const int64_t quiet = absl::ToUnixNanos(now) - last_progress_ns_.load(std::memory_order_relaxed);
  if (absl::Nanoseconds(quiet) < lease_) return;
  // Once is enough: the next tick that still finds it here should wait a lease again.
  last_progress_ns_.store(absl::ToUnixNanos(now), std::memory_order_relaxed);
  ++counters_->expired_leases;
  LOG_EVENT_LIMITED(kWarning, "lease_expired")
      .With("request", request_id_)
      .With("peer", context_->peer());
  context_->TryCancel();
}

void FetchReactor::OnDone() {
  if (entered_) {
    LogFetch(
        {.request = request_id_, .transport = "grpc", .took = absl::Now() - started_}, *pieces_,
        sent_bytes_,
        context_->IsCancelled() ? absl::CancelledError("the reader has left") : absl::OkStatus());
    watch_->Leave(this);
  }
  delete this;
}

}  // namespace tessera
