// Chunks as the API shows them.
#ifndef TESSERA_GATEWAY_CHUNKS_CHUNK_JSON_H_
#define TESSERA_GATEWAY_CHUNKS_CHUNK_JSON_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "boost/json/object.hpp"
#include "boost/json/value.hpp"
#include "gateway/chunks/chunk_records.h"
#include "proto/chunk_record.pb.h"

namespace tessera::openai {

boost::json::value TitleOrNull(std::string_view title);
// Seconds since 1970; null for a time that is over.
boost::json::value PinnedUntilOrNull(absl::Time until);

// Tokens of a chunk that a prompt would find in the cache: those of its pieces before the first
// missing one. Exact where pieces have a power of two of tokens, as workers' have by default.
uint32_t CachedTokens(const chunks::v1::ChunkRecord& record,
                      const absl::flat_hash_set<std::string>& missing);

// All of a record but its text. `missing` has the keys of pieces that the cache does not hold; the
// field pinned_until is left out where it is not known.
boost::json::object ChunkObject(const FoundRecord& found,
                                const absl::flat_hash_set<std::string>& missing);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_CHUNKS_CHUNK_JSON_H_
