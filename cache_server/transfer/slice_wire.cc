#include "cache_server/transfer/slice_wire.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/status_macros.h"

namespace tessera {
namespace {

static_assert(std::endian::native == std::endian::little);

// Protobuf wire types.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

constexpr uint32_t Tag(uint32_t field, WireType type) { return field << 3 | type; }

constexpr uint32_t kHeaderTag = Tag(1, kLengthDelimited);
constexpr uint32_t kSliceTag = Tag(2, kLengthDelimited);
constexpr uint32_t kKeyIndexTag = Tag(1, kVarint);
constexpr uint32_t kLayerTag = Tag(2, kVarint);
constexpr uint32_t kOffsetTag = Tag(3, kVarint);
constexpr uint32_t kChecksumTag = Tag(4, kFixed64);
constexpr uint32_t kPayloadTag = Tag(5, kLengthDelimited);

void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

void AppendVarintField(uint32_t tag, uint64_t value, std::string* out) {
  AppendVarint(tag, out);
  AppendVarint(value, out);
}

absl::Status Malformed() { return absl::InvalidArgumentError("malformed message"); }

// Walks over the bytes of a fragmented message, from `position` up to `end`.
class Cursor {
 public:
  Cursor(Fragments fragments, size_t begin, size_t end)
      : fragments_(fragments), position_(begin), end_(end) {
    skip_ = begin;
    while (fragment_ < fragments_.size() && skip_ >= fragments_[fragment_].size()) {
      skip_ -= fragments_[fragment_++].size();
    }
  }

  bool AtEnd() const { return position_ >= end_; }
  size_t position() const { return position_; }

  absl::StatusOr<uint64_t> ReadByte() {
    if (AtEnd() || fragment_ >= fragments_.size()) return Malformed();
    const auto byte = static_cast<uint64_t>(fragments_[fragment_][skip_]);
    Advance(1);
    return byte;
  }

  absl::StatusOr<uint64_t> ReadVarint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      ASSIGN_OR_RETURN(const uint64_t byte, ReadByte());
      value |= (byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return Malformed();
  }

  absl::StatusOr<uint64_t> ReadFixed(int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) {
      ASSIGN_OR_RETURN(const uint64_t byte, ReadByte());
      value |= byte << (8 * i);
    }
    return value;
  }

  // The length in front of a length-delimited field, checked against what is left.
  absl::StatusOr<size_t> ReadLength() {
    ASSIGN_OR_RETURN(const uint64_t length, ReadVarint());
    if (length > end_ - position_) return Malformed();
    return length;
  }

  void Advance(size_t bytes) {
    position_ += bytes;
    skip_ += bytes;
    while (fragment_ < fragments_.size() && skip_ >= fragments_[fragment_].size()) {
      skip_ -= fragments_[fragment_++].size();
    }
  }

  // Passes over the value of a field that this reader does not know.
  absl::Status SkipField(uint64_t tag) {
    switch (tag & 7) {
      case kVarint:
        return ReadVarint().status();
      case kFixed64:
        return ReadFixed(8).status();
      case kFixed32:
        return ReadFixed(4).status();
      case kLengthDelimited: {
        ASSIGN_OR_RETURN(const size_t length, ReadLength());
        Advance(length);
        return absl::OkStatus();
      }
      default:
        return Malformed();
    }
  }

 private:
  Fragments fragments_;
  size_t fragment_ = 0;  // the fragment at `position_`
  size_t skip_ = 0;      // where `position_` is within it
  size_t position_;
  const size_t end_;
};

size_t TotalBytes(Fragments fragments) {
  size_t total = 0;
  for (const auto& fragment : fragments) total += fragment.size();
  return total;
}

}  // namespace

std::string EncodeSlicePrefix(const SlicePart& part, size_t payload_bytes) {
  std::string fields;
  AppendVarintField(kKeyIndexTag, part.key_index, &fields);
  AppendVarintField(kLayerTag, part.layer, &fields);
  AppendVarintField(kOffsetTag, part.offset, &fields);
  AppendVarint(kChecksumTag, &fields);
  fields.append(reinterpret_cast<const char*>(&part.checksum), sizeof(part.checksum));
  AppendVarintField(kPayloadTag, payload_bytes, &fields);
  std::string prefix;
  AppendVarintField(kSliceTag, fields.size() + payload_bytes, &prefix);
  return prefix + fields;
}

absl::StatusOr<ReceivedMessage> ReceivedMessage::Parse(Fragments fragments) {
  ReceivedMessage message(fragments);
  Cursor cursor(fragments, 0, TotalBytes(fragments));
  bool has_part = false;
  while (!cursor.AtEnd()) {
    ASSIGN_OR_RETURN(const uint64_t tag, cursor.ReadVarint());
    if (tag != kHeaderTag && tag != kSliceTag) {
      RETURN_IF_ERROR(cursor.SkipField(tag));
      continue;
    }
    ASSIGN_OR_RETURN(const size_t length, cursor.ReadLength());
    // Protobuf would merge two parts; no writer of ours sends them, and nobody needs it.
    if (has_part) return Malformed();
    has_part = true;
    message.range_begin_ = cursor.position();
    message.range_bytes_ = length;
    message.is_slice_ = tag == kSliceTag;
    cursor.Advance(length);
  }
  if (message.is_slice_) {
    RETURN_IF_ERROR(
        message.ParseSlice(message.range_begin_, message.range_begin_ + message.range_bytes_));
  }
  return message;
}

absl::Status ReceivedMessage::ParseSlice(size_t begin, size_t end) {
  Cursor cursor(fragments_, begin, end);
  range_bytes_ = 0;
  while (!cursor.AtEnd()) {
    ASSIGN_OR_RETURN(const uint64_t tag, cursor.ReadVarint());
    if (tag == kKeyIndexTag || tag == kLayerTag) {
      ASSIGN_OR_RETURN(const uint64_t number, cursor.ReadVarint());
      if (number > UINT32_MAX) return Malformed();
      (tag == kLayerTag ? part_.layer : part_.key_index) = static_cast<uint32_t>(number);
    } else if (tag == kOffsetTag) {
      ASSIGN_OR_RETURN(part_.offset, cursor.ReadVarint());
    } else if (tag == kChecksumTag) {
      ASSIGN_OR_RETURN(part_.checksum, cursor.ReadFixed(8));
    } else if (tag == kPayloadTag) {
      ASSIGN_OR_RETURN(range_bytes_, cursor.ReadLength());
      range_begin_ = cursor.position();
      cursor.Advance(range_bytes_);
    } else {
      RETURN_IF_ERROR(cursor.SkipField(tag));
    }
  }
  part_.payload_bytes = range_bytes_;
  return absl::OkStatus();
}

std::string ReceivedMessage::HeaderBytes() const {
  if (is_slice_) return {};
  std::string header(range_bytes_, '\0');
  Copy(range_begin_, range_bytes_, reinterpret_cast<std::byte*>(header.data()));
  return header;
}

void ReceivedMessage::Copy(size_t begin, size_t size, std::byte* target) const {
  for (const auto& fragment : fragments_) {
    if (size == 0) return;
    if (begin >= fragment.size()) {
      begin -= fragment.size();
      continue;
    }
    const size_t bytes = std::min(size, fragment.size() - begin);
    std::memcpy(target, fragment.data() + begin, bytes);
    target += bytes;
    size -= bytes;
    begin = 0;
  }
}

}  // namespace tessera
