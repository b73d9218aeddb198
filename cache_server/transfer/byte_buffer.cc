#include "cache_server/transfer/byte_buffer.h"

#include <grpcpp/support/slice.h>

#include <cstring>
#include <utility>

namespace tessera {

grpc::ByteBuffer EncodeSliceMessage(const SlicePart& part, absl::Span<const std::byte> payload,
                                    std::shared_ptr<const void> owner) {
  const std::string prefix = EncodeSlicePrefix(part, payload.size());
  auto* held = new std::shared_ptr<const void>(std::move(owner));
  auto release = [](void* held) { delete static_cast<std::shared_ptr<const void>*>(held); };
  // gRPC only reads the bytes; its slice type has no const.
  void* bytes = const_cast<std::byte*>(payload.data());
  const grpc::Slice slices[] = {grpc::Slice(prefix),
                                grpc::Slice(bytes, payload.size(), release, held)};
  return grpc::ByteBuffer(slices, 2);
}

grpc::ByteBuffer EncodeSliceMessageCopy(const SlicePart& part,
                                        absl::Span<const std::byte> payload) {
  const std::string prefix = EncodeSlicePrefix(part, payload.size());
  const grpc::Slice slices[] = {grpc::Slice(prefix), grpc::Slice(payload.data(), payload.size())};
  return grpc::ByteBuffer(slices, 2);
}

grpc::ByteBuffer EncodeBytes(const std::string& encoded) {
  const grpc::Slice slice(encoded);
  return grpc::ByteBuffer(&slice, 1);
}

ReceivedBuffer::ReceivedBuffer(const grpc::ByteBuffer& buffer) {
  // Dump fails only for a buffer that holds nothing; there are no fragments then.
  if (!buffer.Dump(&slices_).ok()) return;
  fragments_.reserve(slices_.size());
  for (const grpc::Slice& slice : slices_) {
    fragments_.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()), slice.size());
  }
}

}  // namespace tessera
