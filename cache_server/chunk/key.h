// Keys of chunks and of their pieces: what a cached value is found by.
#ifndef TESSERA_CACHE_SERVER_CHUNK_KEY_H_
#define TESSERA_CACHE_SERVER_CHUNK_KEY_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tessera {

// 32 bytes of SHA-256. A value type; any two are compared byte by byte.
struct ChunkKey {
  std::array<uint8_t, 32> bytes{};

  // 64 lower-case hexadecimal digits.
  std::string ToHex() const;

  // The 32 raw bytes, valid while this key lives.
  std::string_view AsBytes() const {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  // INVALID_ARGUMENT unless `raw` is 32 bytes.
  static absl::StatusOr<ChunkKey> FromBytes(std::string_view raw);

  friend bool operator==(const ChunkKey&, const ChunkKey&) = default;
  friend auto operator<=>(const ChunkKey&, const ChunkKey&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const ChunkKey& key) {
    return H::combine(std::move(h), key.bytes);
  }
};

// SHA-256 over (layout fingerprint, tenant salt, sink token ids, the segment's token ids), each
// with its length in front, so that no two different inputs join to the same bytes. Free of
// position: the same segment has the same key wherever it stands in a prompt.
ChunkKey MakeChunkKey(const ChunkKey& fingerprint, std::string_view salt,
                      absl::Span<const uint32_t> sink, absl::Span<const uint32_t> tokens);

// SHA-256 over (chunk key, tokens per piece, index): the key of the index-th piece. The piece size
// is part of it, since a server may be used by workers that cut differently.
ChunkKey MakePieceKey(const ChunkKey& chunk, uint32_t tokens_per_piece, uint32_t index);

// The key of a block for exact prefix caching (multi-turn chat): SHA-256 over (the parent's key, the
// block's token ids). Unlike a chunk, a block has seen all that stands before it, so its key covers
// the whole prompt up to its end, through its parents. Blocks come only from full prefills.
ChunkKey MakeBlockKey(const ChunkKey& parent, absl::Span<const uint32_t> tokens);

// The parent of a prompt's first block: SHA-256 over (layout fingerprint, tenant salt, a mark that
// no chunk's key has).
ChunkKey MakePrefixRoot(const ChunkKey& fingerprint, std::string_view salt);

// Whose bytes a piece counts as, for quotas: the first 16 bytes of SHA-256 over (a mark, the salt),
// so that the server learns no salt. All zero without a salt.
struct Tenant {
  std::array<uint8_t, 16> bytes{};

  // 32 lower-case hexadecimal digits.
  std::string ToHex() const;
  std::string_view AsBytes() const {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // Empty gives the tenant without a salt. INVALID_ARGUMENT unless `raw` is 0 or 16 bytes.
  static absl::StatusOr<Tenant> FromBytes(std::string_view raw);

  friend bool operator==(const Tenant&, const Tenant&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const Tenant& tenant) {
    return H::combine(std::move(h), tenant.bytes);
  }
};
Tenant MakeTenant(std::string_view salt);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CHUNK_KEY_H_
