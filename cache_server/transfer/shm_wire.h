// What a client and a server of the same machine say to each other over a Unix socket, so that the
// client reads the server's memory in place. No protobuf: a call is a few dozen bytes, and must
// take microseconds.
//
// A packet is a head, a fixed part, and `count` records, with nothing after them; integers are
// little-endian, and every struct below is laid out as it is declared, without gaps. At most
// kMaxShmPacketBytes.
//
//   head      u32 type, u32 count, u64 call
//
//   from the client         head.call         fixed part    records
//   kHello       token      version           -             count bytes of the token
//   kAcquire     read       number            ShmAcquire    ChunkKey, at most ShmWelcome.most_keys
//   kRenew       read on    lease id          -             -
//   kRelease     done       lease id          -             -
//   kFind        have you?  number            -             ChunkKey, at most ShmWelcome.most_keys
//   kStaging     my memory  -                 -             -   with one descriptor: a sealed memfd
//   kPut         store      number            ShmPut        -
//   kErase       damaged    -                 -             ChunkKey
//   kRequest     names      -                 -             count bytes of a request's id
//
//   from the server
//   kWelcome     to kHello  version           ShmWelcome    -   with two descriptors: the memory of
//                                                           the first tier, and the lease table
//   kAcquired    to kAcquire  its number      ShmLease      ShmPlace, one per key in the order
//   asked kLoaded      later      lease id          -             ShmLoaded, one for each kPending
//   place kFound       to kFind   its number        -             u8, one per key: 1 for present
//   kPutDone     to kPut    its number        ShmPutDone    -
//   kFailed      to any     its number        -             count bytes of a text for people
//
// kRenew, kRelease, kStaging, kErase and kRequest have no answer. What follows a kRequest, up to
// the next one, is for the request that it names, for the server's log; without bytes: for none. A
// call's number is the client's choice. A kFailed in answer to kHello ends the connection; so does
// a packet that breaks these rules.
//
// A lease (see lease_table.h) pins every place of its kAcquired that is kHere, and those that a
// kLoaded brings, from then on until kRelease, the end of ShmWelcome.lease_ms without a kRenew, or
// the end of the connection. Without a find or a pending place there is no lease: its id is 0.
#ifndef TESSERA_CACHE_SERVER_TRANSFER_SHM_WIRE_H_
#define TESSERA_CACHE_SERVER_TRANSFER_SHM_WIRE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cache_server/chunk/key.h"

namespace tessera {

// Both sides speak the same version; otherwise they use gRPC. 2 has kRequest.
inline constexpr uint32_t kShmVersion = 2;
// Below what a socket holds with Linux's default buffer size.
inline constexpr size_t kMaxShmPacketBytes = size_t{128} << 10;
// Keys of one packet, whatever the server says.
inline constexpr size_t kMostShmKeys = 2048;
inline constexpr size_t kMostShmTokenBytes = 4096;
// Pieces whose kPut may be without an answer.
inline constexpr size_t kMostShmPuts = 32;

enum class ShmType : uint32_t {
  kHello = 1,
  kAcquire = 2,
  kRenew = 3,
  kRelease = 4,
  kFind = 5,
  kStaging = 6,
  kPut = 7,
  kErase = 8,
  kRequest = 9,
  kWelcome = 64,
  kAcquired = 65,
  kLoaded = 66,
  kFound = 67,
  kPutDone = 68,
  kFailed = 69,
};

struct ShmHead {
  uint32_t type = 0;
  uint32_t count = 0;
  uint64_t call = 0;
};

struct ShmWelcome {
  uint64_t memory_bytes = 0;  // of the first descriptor
  uint64_t lease_ms = 0;
  uint64_t max_slice_bytes = 0;
  uint32_t most_keys = 0;
  uint32_t lease_slots = 0;
  // The server's instance_id, as GetCapabilities says it, zero-filled: that this is the server
  // that was meant.
  std::array<char, 32> instance = {};
};

struct ShmAcquire {
  uint32_t stop_at_first_miss = 0;  // 0 or 1
  uint32_t unused = 0;
};

struct ShmLease {
  uint64_t id = 0;
  uint32_t slot = 0;
  uint32_t unused = 0;
};

enum class ShmState : uint32_t {
  kMiss = 0,
  kHere = 1,
  kPending = 2,  // in a lower tier, and being loaded; a kLoaded follows
};

// Where a piece is. In bytes from the memory's start: its slices, one after the other, and its
// checksums, 8 bytes each.
struct ShmPlace {
  uint32_t state = 0;
  uint32_t layers = 0;
  uint64_t slice_bytes = 0;
  uint64_t slices_at = 0;
  uint64_t checksums_at = 0;
  std::array<char, 16> tier = {};  // its name, zero-filled
};

struct ShmLoaded {
  uint32_t index = 0;  // of its key in the kAcquire
  uint32_t unused = 0;
  ShmPlace place;  // kHere; or kMiss: gone, damaged, or no room
};

// A piece in the staging memory: its slices one after the other from `at` on, then its checksums.
struct ShmPut {
  ChunkKey key;
  std::array<uint8_t, 16> tenant = {};
  uint64_t at = 0;
  uint64_t slice_bytes = 0;
  uint32_t layers = 0;
  uint32_t unused = 0;
};

enum class ShmPutResult : uint32_t {
  kStored = 0,
  kAlreadyPresent = 1,
  kRejected = 2,  // no room, or larger than the server accepts
  kDataLoss = 3,  // a checksum does not match its slice
};

struct ShmPutDone {
  uint32_t result = 0;
  uint32_t unused = 0;
};

// Stands for a part that a packet does not have.
struct ShmNothing {};

template <typename T>
constexpr size_t ShmBytes() {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::is_empty_v<T> ? 0 : sizeof(T);
}

static_assert(sizeof(ShmHead) == 16 && sizeof(ShmWelcome) == 64 && sizeof(ShmAcquire) == 8);
static_assert(sizeof(ShmLease) == 16 && sizeof(ShmPlace) == 48 && sizeof(ShmLoaded) == 56);
static_assert(sizeof(ShmPut) == 72 && sizeof(ShmPutDone) == 8 && sizeof(ChunkKey) == 32);
static_assert(sizeof(ShmHead) + sizeof(ShmLease) + kMostShmKeys * sizeof(ShmLoaded) <=
              kMaxShmPacketBytes);

// A packet in the making, or one that was received.
using ShmPacket = std::vector<std::byte>;

// The head of a packet. INVALID_ARGUMENT: too short.
absl::StatusOr<ShmHead> ReadShmHead(absl::Span<const std::byte> packet);

// A packet of a fixed part and records. The caller keeps to kMaxShmPacketBytes.
template <typename Fixed, typename Record>
ShmPacket MakeShmPacket(ShmType type, uint64_t call, const Fixed& fixed,
                        absl::Span<const Record> records) {
  const ShmHead head = {static_cast<uint32_t>(type), static_cast<uint32_t>(records.size()), call};
  ShmPacket packet(sizeof(head) + ShmBytes<Fixed>() + records.size() * sizeof(Record));
  std::byte* at = packet.data();
  std::memcpy(at, &head, sizeof(head));
  at += sizeof(head);
  if constexpr (!std::is_empty_v<Fixed>) std::memcpy(at, &fixed, sizeof(fixed));
  at += ShmBytes<Fixed>();
  if (!records.empty()) std::memcpy(at, records.data(), records.size() * sizeof(Record));
  return packet;
}

// A packet without records.
template <typename Fixed = ShmNothing>
ShmPacket MakeShmPacket(ShmType type, uint64_t call, const Fixed& fixed = {}) {
  return MakeShmPacket(type, call, fixed, absl::Span<const std::byte>());
}

// A packet whose records are the bytes of a text; what is longer than kMostShmTokenBytes is cut.
ShmPacket MakeShmText(ShmType type, uint64_t call, std::string_view text);
// The text of a packet. INVALID_ARGUMENT: its sizes do not match, or it is longer than that.
absl::StatusOr<std::string> ReadShmText(absl::Span<const std::byte> packet);

// Size check of a packet with these parts. INVALID_ARGUMENT.
absl::Status CheckShmSize(absl::Span<const std::byte> packet, size_t fixed_bytes,
                          size_t record_bytes, size_t most_records);

// The fixed part of a packet with at most `most` records. INVALID_ARGUMENT: its sizes do not match.
template <typename Fixed, typename Record = ShmNothing>
absl::StatusOr<Fixed> ReadShmFixed(absl::Span<const std::byte> packet, size_t most = 0) {
  const absl::Status status = CheckShmSize(packet, ShmBytes<Fixed>(), ShmBytes<Record>(), most);
  if (!status.ok()) return status;
  Fixed fixed = {};
  if constexpr (!std::is_empty_v<Fixed>) {
    std::memcpy(&fixed, packet.data() + sizeof(ShmHead), sizeof(fixed));
  }
  return fixed;
}

// The records of a packet, at most `most`. INVALID_ARGUMENT: its sizes do not match.
template <typename Record, typename Fixed = ShmNothing>
absl::StatusOr<std::vector<Record>> ReadShmRecords(absl::Span<const std::byte> packet,
                                                   size_t most) {
  const absl::Status status = CheckShmSize(packet, ShmBytes<Fixed>(), sizeof(Record), most);
  if (!status.ok()) return status;
  const auto bytes = packet.subspan(sizeof(ShmHead) + ShmBytes<Fixed>());
  std::vector<Record> records(bytes.size() / sizeof(Record));
  if (!records.empty()) std::memcpy(records.data(), bytes.data(), bytes.size());
  return records;
}

// Text in a fixed field: cut to its size, zero-filled.
template <size_t kSize>
std::array<char, kSize> ShmName(std::string_view name) {
  std::array<char, kSize> field = {};
  std::memcpy(field.data(), name.data(), name.size() < kSize ? name.size() : kSize);
  return field;
}
template <size_t kSize>
std::string ReadShmName(const std::array<char, kSize>& field) {
  return std::string(field.data(), strnlen(field.data(), kSize));
}

// Whether all of a kHere place lies in `memory_bytes` of memory.
bool ShmPlaceFits(const ShmPlace& place, uint64_t memory_bytes);

// Bytes that a piece takes in the staging memory; 0 for a shape that is none, or is too large.
uint64_t ShmStagedBytes(uint32_t layers, uint64_t slice_bytes);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TRANSFER_SHM_WIRE_H_
