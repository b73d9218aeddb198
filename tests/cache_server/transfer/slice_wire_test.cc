#include "cache_server/transfer/slice_wire.h"

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "proto/kv_cache.pb.h"

namespace tessera {
namespace {

using Spans = std::vector<absl::Span<const std::byte>>;

absl::Span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string Payload(const ReceivedMessage& message) {
  std::string payload(message.part().payload_bytes, '\0');
  message.CopyPayload(reinterpret_cast<std::byte*>(payload.data()));
  return payload;
}

SlicePart LargePart() {
  return {.key_index = 300,
          .layer = 129,
          .offset = uint64_t{5} << 32,
          .checksum = 0x8000000000000001u,
          .payload_bytes = 0};
}

TEST(SliceWireTest, ProtobufReadsWhatWeWrite) {
  for (const SlicePart& part : {SlicePart(), LargePart()}) {
    const std::string payload(1000, 'p');
    const std::string wire = EncodeSlicePrefix(part, payload.size()) + payload;
    cache::v1::FetchResponse response;
    ASSERT_TRUE(response.ParseFromString(wire));
    ASSERT_TRUE(response.has_slice());
    EXPECT_EQ(response.slice().key_index(), part.key_index);
    EXPECT_EQ(response.slice().layer(), part.layer);
    EXPECT_EQ(response.slice().offset(), part.offset);
    EXPECT_EQ(response.slice().checksum(), part.checksum);
    EXPECT_EQ(response.slice().payload(), payload);
    cache::v1::StoreRequest request;
    ASSERT_TRUE(request.ParseFromString(wire));
    EXPECT_EQ(request.slice().payload(), payload);
  }
}

std::string ProtobufSlice(const SlicePart& part, const std::string& payload) {
  cache::v1::StoreRequest request;
  request.mutable_slice()->set_key_index(part.key_index);
  request.mutable_slice()->set_layer(part.layer);
  request.mutable_slice()->set_offset(part.offset);
  request.mutable_slice()->set_checksum(part.checksum);
  request.mutable_slice()->set_payload(payload);
  return request.SerializeAsString();
}

TEST(SliceWireTest, WeReadWhatProtobufWritesInAnyFragments) {
  const SlicePart part = LargePart();
  const std::string wire = ProtobufSlice(part, "0123456789abcdef");
  for (size_t cut = 0; cut <= wire.size(); ++cut) {
    for (size_t second = cut; second <= wire.size(); ++second) {
      const std::string_view view = wire;
      const Spans fragments = {AsBytes(view.substr(0, cut)),
                               AsBytes(view.substr(cut, second - cut)),
                               AsBytes(view.substr(second))};
      const auto message = ReceivedMessage::Parse(fragments);
      ASSERT_TRUE(message.ok()) << cut;
      ASSERT_TRUE(message->is_slice());
      EXPECT_EQ(message->part().key_index, part.key_index);
      EXPECT_EQ(message->part().layer, part.layer);
      EXPECT_EQ(message->part().offset, part.offset);
      EXPECT_EQ(message->part().checksum, part.checksum);
      EXPECT_EQ(Payload(*message), "0123456789abcdef");
    }
  }
}

TEST(SliceWireTest, DefaultsMayBeAbsent) {
  const std::string wire = ProtobufSlice(SlicePart(), "");
  const Spans fragments = {AsBytes(wire)};
  const auto message = ReceivedMessage::Parse(fragments);
  ASSERT_TRUE(message.ok());
  EXPECT_TRUE(message->is_slice());
  EXPECT_EQ(message->part().payload_bytes, 0u);
}

TEST(SliceWireTest, PayloadFirstAndUnknownFields) {
  // Slice { payload: "xyz", 15: varint 300, 14: fixed32, 13: "u", layer: 4 } and an unknown
  // field 9.
  const std::string slice = std::string("\x2a\x03xyz", 5) + std::string("\x78\xac\x02", 3) +
                            std::string("\x75\1\2\3\4", 5) + std::string("\x6a\x01u", 3) +
                            std::string("\x10\x04", 2);
  const std::string wire = std::string("\x48\x05\x12", 3) + static_cast<char>(slice.size()) + slice;
  const Spans fragments = {AsBytes(wire)};
  const auto message = ReceivedMessage::Parse(fragments);
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(message->part().layer, 4u);
  EXPECT_EQ(Payload(*message), "xyz");
}

TEST(SliceWireTest, Headers) {
  cache::v1::StoreRequest request;
  request.mutable_header()->set_key("k");
  request.mutable_header()->set_layers(3);
  const std::string wire = request.SerializeAsString();
  const Spans fragments = {AsBytes(wire)};
  const auto message = ReceivedMessage::Parse(fragments);
  ASSERT_TRUE(message.ok());
  EXPECT_FALSE(message->is_slice());
  EXPECT_EQ(message->HeaderBytes(), request.header().SerializeAsString());
  EXPECT_TRUE(ReceivedMessage::Parse({})->HeaderBytes().empty());
}

TEST(SliceWireTest, MalformedIsAnError) {
  const std::string whole = ProtobufSlice(LargePart(), "0123456789");
  for (size_t size = 1; size < whole.size(); ++size) {
    const std::string cut = whole.substr(0, size);
    const Spans fragments = {AsBytes(cut)};
    EXPECT_FALSE(ReceivedMessage::Parse(fragments).ok()) << size;
  }
  const std::vector<std::string> malformed = {
      whole + whole,                           // two parts
      std::string("\x12\x02\x2a\x05", 4),      // payload longer than the slice
      std::string("\x12\x03\x23\x00\x00", 5),  // group wire type
      std::string("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11),  // a length of 2^64 - 1
      std::string("\x12\x06\x10\xff\xff\xff\xff\x7f", 8),               // layer beyond 32 bits
      std::string(12, '\xff'),                                          // endless varint
  };
  for (const std::string& wire : malformed) {
    const Spans fragments = {AsBytes(wire)};
    EXPECT_EQ(ReceivedMessage::Parse(fragments).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace tessera
