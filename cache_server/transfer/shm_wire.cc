#include "cache_server/transfer/shm_wire.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tessera {

static_assert(std::endian::native == std::endian::little);

absl::StatusOr<ShmHead> ReadShmHead(absl::Span<const std::byte> packet) {
  ShmHead head;
  if (packet.size() < sizeof(head)) return absl::InvalidArgumentError("a packet without a head");
  std::memcpy(&head, packet.data(), sizeof(head));
  return head;
}

absl::Status CheckShmSize(absl::Span<const std::byte> packet, size_t fixed_bytes,
                          size_t record_bytes, size_t most_records) {
  ASSIGN_OR_RETURN(const ShmHead head, ReadShmHead(packet));
  if (head.count > most_records) {
    return absl::InvalidArgumentError(
        absl::StrCat(head.count, " records in a packet; at most ", most_records));
  }
  if (packet.size() != sizeof(head) + fixed_bytes + head.count * record_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a packet of type ", head.type, " with ", packet.size(), " bytes"));
  }
  return absl::OkStatus();
}

ShmPacket MakeShmText(ShmType type, uint64_t call, std::string_view text) {
  text = text.substr(0, kMostShmTokenBytes);
  return MakeShmPacket(type, call, ShmNothing(), absl::MakeConstSpan(text.data(), text.size()));
}

absl::StatusOr<std::string> ReadShmText(absl::Span<const std::byte> packet) {
  RETURN_IF_ERROR(CheckShmSize(packet, 0, 1, kMostShmTokenBytes));
  return std::string(reinterpret_cast<const char*>(packet.data()) + sizeof(ShmHead),
                     packet.size() - sizeof(ShmHead));
}

uint64_t ShmStagedBytes(uint32_t layers, uint64_t slice_bytes) {
  constexpr uint64_t kMostBytes = uint64_t{1} << 40;
  if (layers == 0 || slice_bytes == 0 || slice_bytes > kMostBytes / layers) return 0;
  return layers * (slice_bytes + sizeof(uint64_t));
}

bool ShmPlaceFits(const ShmPlace& place, uint64_t memory_bytes) {
  if (ShmStagedBytes(place.layers, place.slice_bytes) == 0) return false;
  const uint64_t slices = place.layers * place.slice_bytes;
  const uint64_t checksums = place.layers * sizeof(uint64_t);
  return slices <= memory_bytes && place.slices_at <= memory_bytes - slices &&
         checksums <= memory_bytes && place.checksums_at <= memory_bytes - checksums;
}

}  // namespace tessera
