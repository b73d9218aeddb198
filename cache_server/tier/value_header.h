// The bytes in front of every layer slice on a disk, and the record of a piece there.
//
// A slice is stored as this header (64 bytes), then its payload. Numbers are little endian.
//
//   offset  bytes
//        0      4  magic, "TSLC"
//        4      2  version, 1
//        6      2  zero
//        8      4  layer
//       12      4  check: the lower half of XXH3-64 over these 64 bytes, with zero here
//       16     32  key
//       48      8  bytes of the payload
//       56      8  XXH3-64 of the payload, as its writer gave it
//
// A piece's record (80 bytes):
//
//        0      4  magic, "TPCE"
//        4      2  version, 1
//        6      2  zero
//        8      4  layers
//       12      4  check, as above, over these 80 bytes
//       16     32  key
//       48      8  bytes of a slice
//       56      8  when it was added, milliseconds since 1970
//       64     16  tenant
#ifndef TESSERA_CACHE_SERVER_TIER_VALUE_HEADER_H_
#define TESSERA_CACHE_SERVER_TIER_VALUE_HEADER_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/chunk/key.h"
#include "cache_server/tier/tier.h"

namespace tessera {

inline constexpr size_t kSliceHeaderBytes = 64;
inline constexpr size_t kPieceRecordBytes = 80;

struct SliceHeader {
  ChunkKey key;
  uint32_t layer = 0;
  uint64_t payload_bytes = 0;
  uint64_t checksum = 0;  // of the payload

  friend bool operator==(const SliceHeader&, const SliceHeader&) = default;
};

std::array<std::byte, kSliceHeaderBytes> EncodeSliceHeader(const SliceHeader& header);

// Takes the first 64 of any bytes. DATA_LOSS, naming what is wrong, unless they are exactly what
// EncodeSliceHeader gives for some header. Says nothing about the payload.
absl::StatusOr<SliceHeader> ParseSliceHeader(absl::Span<const std::byte> bytes);

// The payload of a whole stored slice: the header is right and is the one wanted, the payload has
// its length and its checksum. DATA_LOSS, naming what is wrong, otherwise. `checksum`: as stored.
absl::StatusOr<absl::Span<const std::byte>> CheckedPayload(absl::Span<const std::byte> stored,
                                                           const ChunkKey& key, uint32_t layer,
                                                           uint64_t slice_bytes,
                                                           uint64_t* checksum);

struct PieceRecord {
  ChunkKey key;
  PieceShape shape;
  Tenant tenant;
  absl::Time added;  // whole milliseconds are kept

  friend bool operator==(const PieceRecord&, const PieceRecord&) = default;
};

std::array<std::byte, kPieceRecordBytes> EncodePieceRecord(const PieceRecord& record);

// DATA_LOSS, naming what is wrong, unless `bytes` are exactly what EncodePieceRecord gives for some
// record of a valid shape.
absl::StatusOr<PieceRecord> ParsePieceRecord(absl::Span<const std::byte> bytes);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_VALUE_HEADER_H_
