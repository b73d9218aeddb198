#include "cache_server/service/store_reactor.h"

#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "cache_server/service/call_log.h"
#include "cache_server/service/grpc_status.h"
#include "cache_server/transfer/byte_buffer.h"
#include "proto/kv_cache.pb.h"

namespace tessera {

StoreReactor::StoreReactor(StreamWatch* watch, PieceWriter writer, absl::Time deadline,
                           grpc::ByteBuffer* response, TransportCounters* counters,
                           std::string request_id)
    : watch_(watch),
      deadline_(deadline),
      response_(response),
      counters_(counters),
      request_id_(std::move(request_id)),
      writer_(std::move(writer)) {}

void StoreReactor::Start() {
  entered_ = true;
  absl::MutexLock lock(&mutex_);
  if (!finished_) StartRead(&message_);
}

void StoreReactor::Refuse(const grpc::Status& status) {
  ++counters_->refused_stores;
  Finish(status);
}

void StoreReactor::OnReadDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  if (finished_) return;
  if (!ok) {
    FinishOnce(writer_.Finish());
    return;
  }
  const absl::Status status = TakeMessage();
  message_.Clear();
  if (status.ok()) {
    StartRead(&message_);
  } else {
    LOG_EVENT_LIMITED(kWarning, "store_refused").With("request", request_id_).WithError(status);
    FinishOnce(status);
  }
}

absl::Status StoreReactor::TakeMessage() {
  const ReceivedBuffer buffer(message_);
  ASSIGN_OR_RETURN(const ReceivedMessage message, buffer.Parse());
  if (message.is_slice()) return writer_.AddPart(message);
  cache::v1::StoreHeader header;
  if (!header.ParseFromString(message.HeaderBytes())) {
    return absl::InvalidArgumentError("malformed header");
  }
  return writer_.AddHeader(header.key(), {header.layers(), header.slice_bytes()}, header.tenant());
}

void StoreReactor::FinishOnce(const absl::Status& status) {
  if (finished_) return;
  finished_ = true;
  writer_.Drop();
  ++counters_->stores;
  if (!status.ok()) ++counters_->refused_stores;
  LogStore({.request = request_id_, .transport = "grpc", .took = absl::Now() - started_},
           {.stored = writer_.counts().stored,
            .present = writer_.counts().already_present,
            .rejected = writer_.counts().rejected,
            .bytes = writer_.counts().stored_bytes},
           status);
  if (absl::IsDataLoss(status)) ++counters_->checksum_failures;
  counters_->stored_bytes += writer_.counts().stored_bytes;
  counters_->stored_pieces += writer_.counts().stored;
  counters_->present_pieces += writer_.counts().already_present;
  counters_->rejected_pieces += writer_.counts().rejected;
  cache::v1::StoreResponse response;
  response.set_stored(writer_.counts().stored);
  response.set_already_present(writer_.counts().already_present);
  response.set_rejected(writer_.counts().rejected);
  *response_ = EncodeBytes(response.SerializeAsString());
  Finish(ToGrpcStatus(status));
}

void StoreReactor::CheckDeadline(absl::Time now) {
  if (now < deadline_) return;
  absl::MutexLock lock(&mutex_);
  if (finished_) return;
  LOG_EVENT_LIMITED(kWarning, "store_timeout")
      .With("request", request_id_)
      .With("stored", writer_.counts().stored);
  FinishOnce(absl::DeadlineExceededError("the store took too long"));
}

void StoreReactor::OnCancel() {
  absl::MutexLock lock(&mutex_);
  writer_.Drop();
}

void StoreReactor::OnDone() {
  if (entered_) watch_->Leave(this);
  delete this;
}

}  // namespace tessera
