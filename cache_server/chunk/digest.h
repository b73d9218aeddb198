// SHA-256 over a list of parts that cannot run into each other.
#ifndef TESSERA_CACHE_SERVER_CHUNK_DIGEST_H_
#define TESSERA_CACHE_SERVER_CHUNK_DIGEST_H_

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/types/span.h"
#include "cache_server/chunk/key.h"

namespace tessera {

// Hashes exactly these bytes: for each part its length in bytes (64 bit, little endian), then the
// part; numbers little endian at their fixed width, without a length. For one thread.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  Digest& Part(std::string_view bytes);
  Digest& Part(absl::Span<const uint32_t> numbers);
  Digest& Number(uint32_t number);

  // The hash of all parts so far. Call once, last.
  ChunkKey Finish();

 private:
  struct State;
  void Update(const void* bytes, size_t size);

  std::unique_ptr<State> state_;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CHUNK_DIGEST_H_
