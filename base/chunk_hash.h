// What a router knows a chunk by.
#ifndef TESSERA_BASE_CHUNK_HASH_H_
#define TESSERA_BASE_CHUNK_HASH_H_

#include <cstdint>
#include <span>
#include <string>

namespace tessera {

// XXH3 of the token ids (32 bit, little endian), seeded with that of the salt: same salt and same
// ids, same hash, in every gateway and worker. Two chunks with one hash cost a fetch, never an
// answer: the cache's own keys are SHA-256.
uint64_t ChunkHash(const std::string& salt, std::span<const uint32_t> token_ids);

}  // namespace tessera

#endif  // TESSERA_BASE_CHUNK_HASH_H_
