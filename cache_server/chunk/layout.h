// What the bytes of a chunk mean: the part of the model that KV depends on.
#ifndef TESSERA_CACHE_SERVER_CHUNK_LAYOUT_H_
#define TESSERA_CACHE_SERVER_CHUNK_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "cache_server/chunk/key.h"

namespace tessera {

// Two workers may share chunks exactly when all these fields are equal.
struct Layout {
  std::string model_digest;  // SHA-256 (hex) over the model's weights
  std::string architecture;  // "llama", "qwen2", ...
  uint32_t layers = 0;
  uint32_t kv_heads = 0;  // of this rank
  uint32_t head_dim = 0;
  std::string dtype = "bf16";
  std::string rope;  // every RoPE parameter, and what else of the configuration K and V depend on
  uint32_t tp_rank = 0;
  uint32_t tp_size = 1;
  uint32_t format_version = 1;

  // Bytes of K and V of one layer of one token.
  size_t BytesPerTokenLayer() const { return 2 * size_t{kv_heads} * head_dim * 2; }

  // SHA-256 over all fields.
  ChunkKey Fingerprint() const;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CHUNK_LAYOUT_H_
