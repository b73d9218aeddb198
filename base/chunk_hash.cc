#include "base/chunk_hash.h"

#include "xxhash.h"

namespace tessera {

uint64_t ChunkHash(const std::string& salt, std::span<const uint32_t> token_ids) {
  const uint64_t seed = salt.empty() ? 0 : XXH3_64bits(salt.data(), salt.size());
  return XXH3_64bits_withSeed(token_ids.data(), token_ids.size_bytes(), seed);
}

}  // namespace tessera
