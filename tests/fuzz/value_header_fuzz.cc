// Arbitrary bytes as what a disk gives back (cache_server/tier/value_header.h): refused, or exactly
// what the encoder gives. And what the encoder gives is read as what it was, and refused when
// damaged.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/time/time.h"
#include "cache_server/chunk/checksum.h"
#include "cache_server/tier/value_header.h"
#include "glog/logging.h"
#include "tests/fuzz/input.h"

namespace tessera::fuzz {
namespace {

using Bytes = absl::Span<const std::byte>;

// A copy that ends where the bytes end, so that a read past them is found.
std::vector<std::byte> Exactly(Bytes bytes) { return {bytes.begin(), bytes.end()}; }

bool Same(Bytes a, Bytes b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

void ReadSlice(Bytes bytes) {
  const auto header = ParseSliceHeader(bytes);
  if (!header.ok()) {
    CHECK(absl::IsDataLoss(header.status())) << header.status();
    return;
  }
  CHECK(Same(EncodeSliceHeader(*header), bytes.subspan(0, kSliceHeaderBytes)));
  uint64_t checksum = 0;
  const auto payload =
      CheckedPayload(bytes, header->key, header->layer, header->payload_bytes, &checksum);
  if (!payload.ok()) return;
  CHECK(Same(*payload, bytes.subspan(kSliceHeaderBytes)));
  CHECK_EQ(payload->size(), header->payload_bytes);
  CHECK(checksum == header->checksum && checksum == SliceChecksum(*payload));
  CHECK(!CheckedPayload(bytes, header->key, header->layer + 1, payload->size(), &checksum).ok());
  CHECK(!CheckedPayload(bytes, header->key, header->layer, payload->size() + 1, &checksum).ok());
}

void ReadRecord(Bytes bytes) {
  const auto record = ParsePieceRecord(bytes);
  if (!record.ok()) {
    CHECK(absl::IsDataLoss(record.status())) << record.status();
    return;
  }
  CHECK(IsValidShape(record->shape));
  CHECK(Same(EncodePieceRecord(*record), bytes));
}

template <size_t kSize>
std::array<uint8_t, kSize> Fixed(Input* input) {
  std::array<uint8_t, kSize> fixed = {};
  const Bytes bytes = input->Bytes(kSize);
  if (!bytes.empty()) std::memcpy(fixed.data(), bytes.data(), bytes.size());
  return fixed;
}

// One damaged byte: refused, or another header that would be written so.
void Damage(std::vector<std::byte> stored, Input* input) {
  const uint16_t at = input->Number<uint16_t>();
  stored[at % stored.size()] ^= static_cast<std::byte>(input->Byte());
  ReadSlice(stored);
  ReadRecord(stored);
}

void RoundTripSlice(Input input) {
  SliceHeader header;
  header.key.bytes = Fixed<32>(&input);
  header.layer = input.Number<uint32_t>();
  const std::vector<std::byte> payload = Exactly(input.Bytes(input.Byte()));
  header.payload_bytes = payload.size();
  header.checksum = SliceChecksum(payload);
  const auto encoded = EncodeSliceHeader(header);
  const auto parsed = ParseSliceHeader(encoded);
  CHECK(parsed.ok() && *parsed == header);
  std::vector<std::byte> stored = Exactly(encoded);
  stored.insert(stored.end(), payload.begin(), payload.end());
  uint64_t checksum = 0;
  const auto checked = CheckedPayload(stored, header.key, header.layer, payload.size(), &checksum);
  CHECK(checked.ok() && Same(*checked, payload) && checksum == header.checksum);
  Damage(stored, &input);
}

void RoundTripRecord(Input input) {
  PieceRecord record;
  record.key.bytes = Fixed<32>(&input);
  record.tenant.bytes = Fixed<16>(&input);
  record.shape = {.layers = input.Number<uint32_t>(), .slice_bytes = input.Number<uint64_t>()};
  record.added = absl::FromUnixMillis(input.Number<int64_t>());
  const auto encoded = EncodePieceRecord(record);
  const auto parsed = ParsePieceRecord(encoded);
  CHECK_EQ(parsed.ok(), IsValidShape(record.shape)) << parsed.status();
  CHECK(!parsed.ok() || *parsed == record);
  Damage(Exactly(encoded), &input);
}

}  // namespace

void FuzzValueHeader(const uint8_t* bytes, size_t size) {
  const std::vector<std::byte> exact = Exactly({reinterpret_cast<const std::byte*>(bytes), size});
  ReadSlice(exact);
  ReadRecord(exact);
  RoundTripSlice(Input(bytes, size));
  RoundTripRecord(Input(bytes, size));
}

}  // namespace tessera::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  tessera::fuzz::FuzzValueHeader(bytes, size);
  return 0;
}
