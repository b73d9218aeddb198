#include "cache_server/tier/value_header.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cache_server/chunk/checksum.h"

namespace tessera {
namespace {

// Numbers are copied as they lie in memory.
static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kSliceMagic = 0x434C5354;   // "TSLC"
constexpr uint32_t kRecordMagic = 0x45435054;  // "TPCE"
constexpr uint16_t kVersion = 1;

// Where both formats have the same field.
constexpr size_t kMagicAt = 0;
constexpr size_t kVersionAt = 4;
constexpr size_t kZeroAt = 6;
constexpr size_t kNumberAt = 8;  // layer, or layers
constexpr size_t kCheckAt = 12;
constexpr size_t kKeyAt = 16;
constexpr size_t kBytesAt = 48;
// Where they differ.
constexpr size_t kChecksumAt = 56;
constexpr size_t kAddedAt = 56;
constexpr size_t kTenantAt = 64;

template <typename T>
void Store(T value, std::byte* at) {
  std::memcpy(at, &value, sizeof(value));
}

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

template <size_t kSize>
uint32_t CheckOf(std::array<std::byte, kSize> bytes) {
  Store<uint32_t>(0, bytes.data() + kCheckAt);
  return static_cast<uint32_t>(SliceChecksum(bytes));
}

template <size_t kSize>
void StoreFrame(uint32_t magic, const ChunkKey& key, uint32_t number,
                std::array<std::byte, kSize>* bytes) {
  Store(magic, bytes->data() + kMagicAt);
  Store(kVersion, bytes->data() + kVersionAt);
  Store<uint16_t>(0, bytes->data() + kZeroAt);
  Store(number, bytes->data() + kNumberAt);
  std::memcpy(bytes->data() + kKeyAt, key.bytes.data(), key.bytes.size());
  Store(CheckOf(*bytes), bytes->data() + kCheckAt);
}

// The check comes last: an older or newer format is named as what it is.
template <size_t kSize>
absl::Status CheckFrame(uint32_t magic, const std::array<std::byte, kSize>& bytes) {
  if (Load<uint32_t>(bytes.data() + kMagicAt) != magic) {
    return absl::DataLossError("wrong magic number");
  }
  const auto version = Load<uint16_t>(bytes.data() + kVersionAt);
  if (version != kVersion) {
    return absl::DataLossError(absl::StrCat("version ", version, ", not ", kVersion));
  }
  if (Load<uint16_t>(bytes.data() + kZeroAt) != 0 ||
      Load<uint32_t>(bytes.data() + kCheckAt) != CheckOf(bytes)) {
    return absl::DataLossError("damaged header");
  }
  return absl::OkStatus();
}

ChunkKey LoadKey(const std::byte* at) {
  ChunkKey key;
  std::memcpy(key.bytes.data(), at, key.bytes.size());
  return key;
}

}  // namespace

std::array<std::byte, kSliceHeaderBytes> EncodeSliceHeader(const SliceHeader& header) {
  std::array<std::byte, kSliceHeaderBytes> bytes{};
  Store(header.payload_bytes, bytes.data() + kBytesAt);
  Store(header.checksum, bytes.data() + kChecksumAt);
  StoreFrame(kSliceMagic, header.key, header.layer, &bytes);
  return bytes;
}

absl::StatusOr<SliceHeader> ParseSliceHeader(absl::Span<const std::byte> bytes) {
  std::array<std::byte, kSliceHeaderBytes> fixed;
  if (bytes.size() < fixed.size()) {
    return absl::DataLossError(absl::StrCat(bytes.size(), " bytes are too few for a header"));
  }
  std::memcpy(fixed.data(), bytes.data(), fixed.size());
  RETURN_IF_ERROR(CheckFrame(kSliceMagic, fixed));
  return SliceHeader{.key = LoadKey(fixed.data() + kKeyAt),
                     .layer = Load<uint32_t>(fixed.data() + kNumberAt),
                     .payload_bytes = Load<uint64_t>(fixed.data() + kBytesAt),
                     .checksum = Load<uint64_t>(fixed.data() + kChecksumAt)};
}

absl::StatusOr<absl::Span<const std::byte>> CheckedPayload(absl::Span<const std::byte> stored,
                                                           const ChunkKey& key, uint32_t layer,
                                                           uint64_t slice_bytes,
                                                           uint64_t* checksum) {
  ASSIGN_OR_RETURN(const SliceHeader header, ParseSliceHeader(stored));
  if (header.key != key) return absl::DataLossError("the slice of another piece");
  if (header.layer != layer) {
    return absl::DataLossError(absl::StrCat("layer ", header.layer, ", not ", layer));
  }
  const absl::Span<const std::byte> payload = stored.subspan(kSliceHeaderBytes);
  if (header.payload_bytes != slice_bytes || payload.size() != slice_bytes) {
    return absl::DataLossError(absl::StrCat("a payload of ", payload.size(),
                                            " bytes, announced as ", header.payload_bytes, ", not ",
                                            slice_bytes));
  }
  if (SliceChecksum(payload) != header.checksum) return absl::DataLossError("wrong checksum");
  *checksum = header.checksum;
  return payload;
}

std::array<std::byte, kPieceRecordBytes> EncodePieceRecord(const PieceRecord& record) {
  std::array<std::byte, kPieceRecordBytes> bytes{};
  Store(record.shape.slice_bytes, bytes.data() + kBytesAt);
  Store<int64_t>(absl::ToUnixMillis(record.added), bytes.data() + kAddedAt);
  std::memcpy(bytes.data() + kTenantAt, record.tenant.bytes.data(), record.tenant.bytes.size());
  StoreFrame(kRecordMagic, record.key, record.shape.layers, &bytes);
  return bytes;
}

absl::StatusOr<PieceRecord> ParsePieceRecord(absl::Span<const std::byte> bytes) {
  std::array<std::byte, kPieceRecordBytes> fixed;
  if (bytes.size() != fixed.size()) {
    return absl::DataLossError(absl::StrCat("a record of ", bytes.size(), " bytes"));
  }
  std::memcpy(fixed.data(), bytes.data(), fixed.size());
  RETURN_IF_ERROR(CheckFrame(kRecordMagic, fixed));
  PieceRecord record = {
      .key = LoadKey(fixed.data() + kKeyAt),
      .shape = {.layers = Load<uint32_t>(fixed.data() + kNumberAt),
                .slice_bytes = Load<uint64_t>(fixed.data() + kBytesAt)},
      .added = absl::FromUnixMillis(Load<int64_t>(fixed.data() + kAddedAt)),
  };
  std::memcpy(record.tenant.bytes.data(), fixed.data() + kTenantAt, record.tenant.bytes.size());
  if (!IsValidShape(record.shape)) return absl::DataLossError("impossible sizes of a piece");
  return record;
}

}  // namespace tessera
