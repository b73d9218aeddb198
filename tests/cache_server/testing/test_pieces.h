// Pieces whose every byte is known, for tests.
#ifndef TESSERA_TESTS_CACHE_SERVER_TESTING_TEST_PIECES_H_
#define TESSERA_TESTS_CACHE_SERVER_TESTING_TEST_PIECES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "cache_server/chunk/checksum.h"
#include "cache_server/chunk/key.h"
#include "cache_server/tier/tier.h"

namespace tessera::testing {

// The key of test piece `number`.
inline ChunkKey TestKey(uint32_t number) { return MakePieceKey(ChunkKey(), 256, number); }

// The bytes of test piece `number`: no two pieces or slices look alike.
inline std::vector<std::byte> TestBytes(uint32_t number, PieceShape shape) {
  std::vector<std::byte> bytes(shape.bytes());
  uint64_t state = 0x9E3779B97F4A7C15u * (number + 1);
  for (size_t at = 0; at < bytes.size(); at += sizeof(state)) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(bytes.data() + at, &state, std::min(sizeof(state), bytes.size() - at));
  }
  return bytes;
}

// Fills room with test piece `number`, checksums included.
inline void FillTestPiece(uint32_t number, WriteHandle* room) {
  const std::vector<std::byte> bytes = TestBytes(number, room->shape());
  const uint64_t slice_bytes = room->shape().slice_bytes;
  for (uint32_t layer = 0; layer < room->shape().layers; ++layer) {
    std::memcpy(room->slice(layer).data(), bytes.data() + layer * slice_bytes, slice_bytes);
    room->set_checksum(layer, SliceChecksum({bytes.data() + layer * slice_bytes, slice_bytes}));
  }
}

// Whether the handle holds test piece `number`, with right checksums.
inline bool HoldsTestPiece(const ReadHandle& handle, uint32_t number) {
  const std::vector<std::byte> bytes = TestBytes(number, handle.shape());
  for (uint32_t layer = 0; layer < handle.layers(); ++layer) {
    const auto slice = handle.slice(layer);
    const std::byte* wanted = bytes.data() + layer * handle.slice_bytes();
    if (std::memcmp(slice.data(), wanted, slice.size()) != 0) return false;
    if (handle.checksum(layer) != SliceChecksum(slice)) return false;
  }
  return true;
}

// Puts test piece `number` into a tier or a store.
template <typename Store>
absl::Status PutTestPiece(Store* store, uint32_t number, PieceShape shape, Tenant tenant = {}) {
  ASSIGN_OR_RETURN(WriteHandle room, store->Allocate(TestKey(number), shape, tenant));
  FillTestPiece(number, &room);
  const auto committed = store->Commit(std::move(room));
  if constexpr (requires { committed.status(); }) {
    return committed.status();
  } else {
    return committed;
  }
}

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TESTING_TEST_PIECES_H_
