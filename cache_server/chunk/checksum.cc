#include "cache_server/chunk/checksum.h"

#include <xxhash.h>

namespace tessera {

uint64_t SliceChecksum(absl::Span<const std::byte> slice) {
  return XXH3_64bits(slice.data(), slice.size());
}

}  // namespace tessera
