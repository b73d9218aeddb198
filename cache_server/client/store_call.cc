#include "cache_server/client/store_call.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <string>

#include "cache_server/chunk/checksum.h"
#include "cache_server/client/channel.h"
#include "cache_server/transfer/byte_buffer.h"
#include "glog/logging.h"

namespace tessera {

StoreCall::StoreCall(grpc::GenericStub* stub, absl::Span<const StoreSource> sources,
                     size_t part_bytes, absl::Time deadline, const std::string& token,
                     const std::string& request_id)
    : sources_(sources), part_bytes_(part_bytes) {
  CHECK(!sources.empty());
  context_.set_deadline(absl::ToChronoTime(deadline));
  AddToken(token, &context_);
  AddRequestId(request_id, &context_);
  stub->PrepareBidiStreamingCall(&context_, "/tessera.cache.v1.KvCache/Store", {}, this);
  StartRead(&response_);
  WriteNext();
  StartCall();
}

absl::StatusOr<cache::v1::StoreResponse> StoreCall::Wait() {
  done_.WaitForNotification();
  if (!status_.ok()) {
    return absl::Status(static_cast<absl::StatusCode>(status_.error_code()),
                        status_.error_message());
  }
  cache::v1::StoreResponse response;
  const grpc::Status parsed =
      grpc::SerializationTraits<cache::v1::StoreResponse>::Deserialize(&response_, &response);
  if (!parsed.ok()) return absl::InternalError("malformed StoreResponse");
  return response;
}

void StoreCall::OnWriteDone(bool ok) {
  // When it is not OK, the call is ending and OnDone will say why.
  if (ok && source_ < sources_.size()) WriteNext();
}

void StoreCall::WriteNext() {
  message_ = NextMessage();
  if (source_ < sources_.size()) {
    StartWrite(&message_);
  } else {
    StartWriteLast(&message_, grpc::WriteOptions());
  }
}

grpc::ByteBuffer StoreCall::HeaderMessage() const {
  const StoreSource& source = sources_[source_];
  cache::v1::StoreRequest request;
  request.mutable_header()->set_key(std::string(source.key.AsBytes()));
  request.mutable_header()->set_layers(source.layers);
  request.mutable_header()->set_slice_bytes(source.slice_bytes);
  if (source.tenant != Tenant()) {
    request.mutable_header()->set_tenant(std::string(source.tenant.AsBytes()));
  }
  return EncodeBytes(request.SerializeAsString());
}

grpc::ByteBuffer StoreCall::NextMessage() {
  const StoreSource& source = sources_[source_];
  if (!header_sent_) {
    header_sent_ = true;
    return HeaderMessage();
  }
  const absl::Span<const std::byte> slice(source.memory + source.slice_bytes * layer_,
                                          source.slice_bytes);
  if (offset_ == 0) checksum_ = SliceChecksum(slice);
  const auto payload = slice.subspan(offset_, part_bytes_);
  const SlicePart part = {.layer = layer_, .offset = offset_, .checksum = checksum_};
  offset_ += payload.size();
  if (offset_ == source.slice_bytes) {
    offset_ = 0;
    ++layer_;
  }
  if (layer_ == source.layers) {
    layer_ = 0;
    header_sent_ = false;
    ++source_;
  }
  return EncodeSliceMessageCopy(part, payload);
}

void StoreCall::OnDone(const grpc::Status& status) {
  status_ = status;
  done_.Notify();
}

}  // namespace tessera
