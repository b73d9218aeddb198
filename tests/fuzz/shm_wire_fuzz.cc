// Arbitrary bytes as a packet of the shared-memory protocol (cache_server/transfer/shm_wire.h),
// read by every reader of either side: refused, or exactly what the writer makes of what was read;
// and a place that is said to fit lies within the memory.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cache_server/transfer/shm_wire.h"
#include "glog/logging.h"
#include "tests/fuzz/input.h"

namespace tessera::fuzz {
namespace {

using Bytes = absl::Span<const std::byte>;

bool Same(Bytes a, Bytes b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

// A packet of a fixed part and records, at most `most`.
template <typename Fixed, typename Record>
void Read(Bytes packet, size_t most) {
  const auto fixed = ReadShmFixed<Fixed, Record>(packet, most);
  const auto records = ReadShmRecords<Record, Fixed>(packet, most);
  CHECK_EQ(fixed.ok(), records.ok());
  if (!fixed.ok()) return;
  CHECK_LE(records->size(), most);
  const ShmHead head = *ReadShmHead(packet);
  const ShmPacket again = MakeShmPacket(static_cast<ShmType>(head.type), head.call, *fixed,
                                        absl::MakeConstSpan(*records));
  CHECK(Same(again, packet));
}

// A packet of a fixed part alone.
template <typename Fixed>
void Read(Bytes packet) {
  const auto fixed = ReadShmFixed<Fixed>(packet);
  if (!fixed.ok()) return;
  const ShmHead head = *ReadShmHead(packet);
  CHECK_EQ(head.count, 0u);
  CHECK(Same(MakeShmPacket(static_cast<ShmType>(head.type), head.call, *fixed), packet));
}

void ReadText(Bytes packet) {
  const auto text = ReadShmText(packet);
  if (!text.ok()) return;
  CHECK_LE(text->size(), kMostShmTokenBytes);
  const ShmHead head = *ReadShmHead(packet);
  CHECK(Same(MakeShmText(static_cast<ShmType>(head.type), head.call, *text), packet));
}

void CheckPlace(const ShmPlace& place, uint64_t memory_bytes) {
  CHECK_LE(ReadShmName(place.tier).size(), place.tier.size());
  const uint64_t staged = ShmStagedBytes(place.layers, place.slice_bytes);
  const auto slices = static_cast<unsigned __int128>(place.layers) * place.slice_bytes;
  const auto checksums = static_cast<unsigned __int128>(place.layers) * sizeof(uint64_t);
  CHECK(staged == 0 || staged == slices + checksums);
  const bool within = slices > 0 && place.slices_at + slices <= memory_bytes &&
                      place.checksums_at + checksums <= memory_bytes;
  // Says yes to nothing that is not within, and to all that a server may have.
  CHECK(!ShmPlaceFits(place, memory_bytes) || within);
  CHECK(staged == 0 || ShmPlaceFits(place, memory_bytes) == within);
}

void CheckPlaces(Bytes packet, uint64_t memory_bytes) {
  if (const auto places = ReadShmRecords<ShmPlace, ShmLease>(packet, kMostShmKeys); places.ok()) {
    for (const ShmPlace& place : *places) CheckPlace(place, memory_bytes);
  }
  if (const auto loaded = ReadShmRecords<ShmLoaded>(packet, kMostShmKeys); loaded.ok()) {
    for (const ShmLoaded& one : *loaded) CheckPlace(one.place, memory_bytes);
  }
}

}  // namespace

void FuzzShmWire(const uint8_t* bytes, size_t size) {
  Input input(bytes, size);
  const uint64_t memory_bytes = input.Number<uint64_t>() >> (input.Byte() % 64);
  // A copy that ends where the packet ends, so that a read past it is found.
  const Bytes rest = input.Bytes(size);
  const std::vector<std::byte> packet(rest.begin(), rest.end());
  CHECK_EQ(ReadShmHead(packet).ok(), packet.size() >= sizeof(ShmHead));
  ReadText(packet);
  Read<ShmNothing, ChunkKey>(packet, kMostShmKeys);
  Read<ShmAcquire, ChunkKey>(packet, kMostShmKeys);
  Read<ShmLease, ShmPlace>(packet, kMostShmKeys);
  Read<ShmNothing, ShmLoaded>(packet, kMostShmKeys);
  Read<ShmNothing, uint8_t>(packet, kMostShmKeys);
  Read<ShmNothing>(packet);
  Read<ShmWelcome>(packet);
  Read<ShmPut>(packet);
  Read<ShmPutDone>(packet);
  CheckPlaces(packet, memory_bytes);
}

}  // namespace tessera::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  tessera::fuzz::FuzzShmWire(bytes, size);
  return 0;
}
