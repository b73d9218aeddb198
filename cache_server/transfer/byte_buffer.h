// Slice parts as gRPC byte buffers. Includes gRPC: only for .cc files of service/ and client/.
#ifndef TESSERA_CACHE_SERVER_TRANSFER_BYTE_BUFFER_H_
#define TESSERA_CACHE_SERVER_TRANSFER_BYTE_BUFFER_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cache_server/transfer/slice_wire.h"

namespace tessera {

// A message that carries `payload` without copying it. `owner` keeps the payload's bytes alive;
// gRPC drops it when it needs them no more, which may be after the call has ended.
grpc::ByteBuffer EncodeSliceMessage(const SlicePart& part, absl::Span<const std::byte> payload,
                                    std::shared_ptr<const void> owner);

// The same, with a copy of `payload`: for bytes whose owner does not wait for gRPC.
grpc::ByteBuffer EncodeSliceMessageCopy(const SlicePart& part, absl::Span<const std::byte> payload);

// A message from the bytes of an encoded protobuf message.
grpc::ByteBuffer EncodeBytes(const std::string& encoded);

// A received message and the gRPC slices that it lies in. Neither copied nor moved: the message
// refers to the slices' bytes.
class ReceivedBuffer {
 public:
  // Takes the buffer's slices by reference, without copying bytes.
  explicit ReceivedBuffer(const grpc::ByteBuffer& buffer);
  ReceivedBuffer(const ReceivedBuffer&) = delete;
  ReceivedBuffer& operator=(const ReceivedBuffer&) = delete;

  // INVALID_ARGUMENT as ReceivedMessage::Parse. The message must not outlive this object.
  absl::StatusOr<ReceivedMessage> Parse() const { return ReceivedMessage::Parse(fragments_); }

 private:
  std::vector<grpc::Slice> slices_;
  std::vector<absl::Span<const std::byte>> fragments_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TRANSFER_BYTE_BUFFER_H_
