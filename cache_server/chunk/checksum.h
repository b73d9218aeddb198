// The checksum that travels with every layer slice.
#ifndef TESSERA_CACHE_SERVER_CHUNK_CHECKSUM_H_
#define TESSERA_CACHE_SERVER_CHUNK_CHECKSUM_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace tessera {

// XXH3-64 of a layer slice, seed 0: made by the writer, verified by the worker that uses the slice.
// It finds flipped and mixed-up bytes; it does not protect against somebody who forges them.
uint64_t SliceChecksum(absl::Span<const std::byte> slice);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CHUNK_CHECKSUM_H_
