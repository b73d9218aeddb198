#include "cache_server/chunk/layout.h"

#include "cache_server/chunk/digest.h"

namespace tessera {

ChunkKey Layout::Fingerprint() const {
  Digest digest;
  digest.Part(model_digest).Part(architecture).Part(dtype).Part(rope);
  digest.Number(layers).Number(kv_heads).Number(head_dim);
  digest.Number(tp_rank).Number(tp_size).Number(format_version);
  return digest.Finish();
}

}  // namespace tessera
