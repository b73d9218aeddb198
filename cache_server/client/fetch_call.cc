#include "cache_server/client/fetch_call.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cache_server/client/channel.h"
#include "cache_server/transfer/byte_buffer.h"
#include "proto/kv_cache.pb.h"

namespace tessera {

FetchCall::FetchCall(grpc::GenericStub* stub, FetchProgress* progress, size_t first, size_t end,
                     const FetchCallOptions& options, std::shared_ptr<CallOutcomes> outcomes)
    : progress_(progress),
      first_(first),
      end_(end),
      options_(options),
      outcomes_(std::move(outcomes)) {
  cache::v1::FetchRequest request;
  for (size_t i = first; i < end; ++i) {
    request.add_keys(std::string(progress->targets()[i].key.AsBytes()));
  }
  request.set_stop_at_first_miss(options.stop_at_first_miss);
  request_ = EncodeBytes(request.SerializeAsString());
  context_.set_deadline(absl::ToChronoTime(options.deadline));
  AddToken(options.token, &context_);
  AddRequestId(options.request_id, &context_);
  stub->PrepareBidiStreamingCall(&context_, "/tessera.cache.v1.KvCache/Fetch", {}, this);
  StartWriteLast(&request_, grpc::WriteOptions());
  StartRead(&response_);
  StartCall();
}

FetchCall::~FetchCall() {
  if (!done_.HasBeenNotified()) Abandon();
  done_.WaitForNotification();
}

void FetchCall::Abandon() {
  // A caller who leaves at the deadline, or after giving up, leaves because of the server.
  if (!given_up_.load() && absl::Now() < options_.deadline) abandoned_.store(true);
  context_.TryCancel();
}

void FetchCall::GiveUp() {
  given_up_.store(true);
  context_.TryCancel();
}

void FetchCall::OnReadDone(bool ok) {
  if (!ok) return;
  const absl::Status status = TakeMessage();
  response_.Clear();
  if (!status.ok()) {
    LOG_EVENT_LIMITED(kWarning, "fetch_broken")
        .With("request", options_.request_id)
        .WithError(status);
    broken_ = true;
    context_.TryCancel();
    return;
  }
  StartRead(&response_);
}

absl::Status FetchCall::TakeMessage() {
  const ReceivedBuffer buffer(response_);
  ASSIGN_OR_RETURN(const ReceivedMessage message, buffer.Parse());
  if (!message.is_slice()) return TakeHeader(message);
  if (message.part().key_index >= end_ - first_) {
    return absl::InvalidArgumentError("slice of an unknown key");
  }
  const absl::Status status =
      progress_->AddPart(first_ + message.part().key_index, message,
                         [this](uint64_t bytes) { outcomes_->Fetched(bytes); });
  if (absl::IsDataLoss(status)) {
    // Only this piece is lost; the others go on.
    outcomes_->ChecksumFailed();
    LOG_EVENT_LIMITED(kWarning, "fetch_checksum")
        .With("request", options_.request_id)
        .WithError(status);
    options_.on_damaged(progress_->targets()[first_ + message.part().key_index].key);
    return absl::OkStatus();
  }
  return status;
}

absl::Status FetchCall::TakeHeader(const ReceivedMessage& message) {
  cache::v1::FetchHeader header;
  if (!header.ParseFromString(message.HeaderBytes())) {
    return absl::InvalidArgumentError("malformed header");
  }
  if (static_cast<size_t>(header.keys_size()) != end_ - first_) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", header.keys_size(), " keys for ", end_ - first_));
  }
  std::vector<HeaderEntry> entries;
  entries.reserve(header.keys_size());
  for (const cache::v1::KeyStatus& key : header.keys()) {
    entries.push_back({key.found(), key.layers(), key.slice_bytes(), key.tier()});
  }
  progress_->SetHeader(first_, entries);
  return absl::OkStatus();
}

void FetchCall::OnDone(const grpc::Status& status) {
  if (broken_ || (!status.ok() && !progress_->IsComplete(first_, end_))) {
    // A caller who left tells nothing about the server.
    if (broken_ || !abandoned_.load()) {
      LOG_EVENT_LIMITED(kWarning, "fetch_failed")
          .With("request", options_.request_id)
          .With("keys", end_ - first_)
          .WithError(absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                                  status.error_message()));
      outcomes_->FetchFailed();
    }
  } else {
    // It sent all it said it would; whether the caller could use it is another matter.
    outcomes_->FetchSucceeded();
  }
  progress_->Close(first_, end_);
  // Nothing of this object may be used after this.
  done_.Notify();
}

}  // namespace tessera
