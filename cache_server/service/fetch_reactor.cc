#include "cache_server/service/fetch_reactor.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "cache_server/transfer/byte_buffer.h"
#include "glog/logging.h"
#include "proto/kv_cache.pb.h"

namespace tessera {

FetchReactor::FetchReactor(grpc::CallbackServerContext* context, StreamWatch* watch,
                           size_t message_bytes, absl::Duration lease)
    : context_(context),
      watch_(watch),
      message_bytes_(message_bytes),
      lease_(lease),
      last_progress_ns_(absl::GetCurrentTimeNanos()) {}

void FetchReactor::Refuse(const grpc::Status& status) { Finish(status); }

void FetchReactor::Start(ChunkStore* store, const std::vector<ChunkKey>& keys) {
  entered_ = true;
  pieces_.reserve(keys.size());
  for (const ChunkKey& key : keys) {
    absl::StatusOr<FoundPiece> found = store->Get(key);
    if (!found.ok()) {
      pieces_.emplace_back();
      continue;
    }
    layers_ = std::max(layers_, found->handle.layers());
    pieces_.emplace_back(*std::move(found));
  }
  SendHeader();
}

void FetchReactor::SendHeader() {
  cache::v1::FetchResponse response;
  cache::v1::FetchHeader* header = response.mutable_header();
  for (const std::optional<FoundPiece>& piece : pieces_) {
    cache::v1::KeyStatus* key = header->add_keys();
    if (!piece) continue;
    key->set_found(true);
    key->set_layers(piece->handle.layers());
    key->set_slice_bytes(piece->handle.slice_bytes());
    key->set_tier(piece->tier);
  }
  message_ = EncodeBytes(response.SerializeAsString());
  StartWrite(&message_);
}

bool FetchReactor::FindSlice() {
  for (; layer_ < layers_; ++layer_, piece_ = 0) {
    for (; piece_ < pieces_.size(); ++piece_) {
      const std::optional<FoundPiece>& piece = pieces_[piece_];
      if (piece && layer_ < piece->handle.layers()) return true;
    }
  }
  return false;
}

void FetchReactor::SendNext() {
  if (!FindSlice()) {
    Finish(grpc::Status::OK);
    return;
  }
  const ReadHandle& handle = pieces_[piece_]->handle;
  const auto payload = handle.slice(layer_).subspan(offset_, message_bytes_);
  const SlicePart part = {.key_index = static_cast<uint32_t>(piece_),
                          .layer = layer_,
                          .offset = offset_,
                          .checksum = handle.checksum(layer_)};
  message_ = EncodeSliceMessage(part, payload, handle.pin());
  offset_ += payload.size();
  if (offset_ == handle.slice_bytes()) {
    offset_ = 0;
    ++piece_;
  }
  StartWrite(&message_);
}

void FetchReactor::OnWriteDone(bool ok) {
  last_progress_ns_.store(absl::GetCurrentTimeNanos(), std::memory_order_relaxed);
  if (!ok || context_->IsCancelled()) {
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the reader has left"));
    return;
  }
  SendNext();
}

void FetchReactor::CheckDeadline(absl::Time now) {
  const int64_t quiet = absl::ToUnixNanos(now) - last_progress_ns_.load(std::memory_order_relaxed);
  if (absl::Nanoseconds(quiet) < lease_) return;
  // Once is enough: the next tick that still finds it here should wait a lease again.
  last_progress_ns_.store(absl::ToUnixNanos(now), std::memory_order_relaxed);
  LOG(WARNING) << "event=lease_expired peer=" << context_->peer();
  context_->TryCancel();
}

void FetchReactor::OnDone() {
  if (entered_) watch_->Leave(this);
  delete this;
}

}  // namespace tessera
