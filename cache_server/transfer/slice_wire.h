// The wire form of a slice part, written and read by hand, so that payload bytes are never copied
// into and out of a protobuf message. What travels is plain protobuf: any client can read and write
// it.
//
//   FetchResponse and StoreRequest: field 2 (slice), length-delimited
//     Slice: 1 key_index varint, 2 layer varint, 3 offset varint, 4 checksum fixed64, 5 payload
//     bytes
//
// The writer puts `payload` last: a message is a short prefix, then the payload's bytes from
// wherever they lie. The reader takes the fields in any order, as any protobuf writer may send
// them.
#ifndef TESSERA_CACHE_SERVER_TRANSFER_SLICE_WIRE_H_
#define TESSERA_CACHE_SERVER_TRANSFER_SLICE_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tessera {

// Default size of a slice part's payload, and the largest that either side accepts, bytes.
inline constexpr size_t kDefaultPartBytes = size_t{1} << 20;
inline constexpr size_t kMaxPartBytes = size_t{8} << 20;
// Room in a message beside the payload: prefix, or a request's keys.
inline constexpr size_t kMessageOverheadBytes = size_t{256} << 10;

// All of a slice part but its bytes.
struct SlicePart {
  uint32_t key_index = 0;
  uint32_t layer = 0;
  uint64_t offset = 0;         // of the payload within the slice, bytes
  uint64_t checksum = 0;       // XXH3-64 of the whole slice
  uint64_t payload_bytes = 0;  // set by the reader
};

// The bytes that stand before `payload_bytes` bytes of payload, to make a FetchResponse or
// StoreRequest.
std::string EncodeSlicePrefix(const SlicePart& part, size_t payload_bytes);

// A received message as gRPC holds it: a list of fragments. The views must outlive the reader.
using Fragments = absl::Span<const absl::Span<const std::byte>>;

// A received FetchResponse or StoreRequest.
class ReceivedMessage {
 public:
  // Reads all but the payload. INVALID_ARGUMENT: not protobuf, or not one of these messages.
  static absl::StatusOr<ReceivedMessage> Parse(Fragments fragments);

  // Whether it carries a slice part; otherwise it carries a header, or nothing.
  bool is_slice() const { return is_slice_; }

  // Of a slice part.
  const SlicePart& part() const { return part_; }

  // Of a slice part: copies the payload, `part().payload_bytes` bytes, to `target`.
  void CopyPayload(std::byte* target) const { Copy(range_begin_, part_.payload_bytes, target); }

  // Of a header: the encoded FetchHeader or StoreHeader; empty when the message has none.
  std::string HeaderBytes() const;

 private:
  explicit ReceivedMessage(Fragments fragments) : fragments_(fragments) {}
  absl::Status ParseSlice(size_t begin, size_t end);
  void Copy(size_t begin, size_t size, std::byte* target) const;

  Fragments fragments_;
  bool is_slice_ = false;
  SlicePart part_;
  // Where the payload (of a slice) or the header lies, in bytes from the message's start.
  size_t range_begin_ = 0;
  size_t range_bytes_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TRANSFER_SLICE_WIRE_H_
