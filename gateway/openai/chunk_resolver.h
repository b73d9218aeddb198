// Texts of the chunks that one request names by id.
#ifndef TESSERA_GATEWAY_OPENAI_CHUNK_RESOLVER_H_
#define TESSERA_GATEWAY_OPENAI_CHUNK_RESOLVER_H_

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "gateway/openai/chunk_texts.h"

namespace tessera::openai {

// Asks for every id once. One object a request; not thread-safe.
class ChunkResolver {
 public:
  // A prompt names at most so many chunks, of so many bytes together.
  static constexpr size_t kMaxChunks = 1024;
  static constexpr size_t kMaxBytes = 64 << 20;

  // `texts` is null where there is no cache to ask; otherwise it must outlive this object.
  ChunkResolver(ChunkTexts* texts, std::string salt) : texts_(texts), salt_(std::move(salt)) {}

  // The text of chunk `id`, which the parameter `param` names; may wait for the cache.
  // Errors, all naming `param`: NOT_FOUND with the code chunk_not_found; INVALID_ARGUMENT for what
  // is no id and past the limits; FAILED_PRECONDITION without a cache; UNAVAILABLE.
  absl::StatusOr<std::string> Resolve(std::string_view id, std::string_view param);

 private:
  ChunkTexts* const texts_;
  const std::string salt_;
  std::map<std::string, std::string, std::less<>> found_;
  size_t chunks_ = 0;
  size_t bytes_ = 0;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_CHUNK_RESOLVER_H_
