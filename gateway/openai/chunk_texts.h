// Texts of chunks that prompts name by id.
#ifndef TESSERA_GATEWAY_OPENAI_CHUNK_TEXTS_H_
#define TESSERA_GATEWAY_OPENAI_CHUNK_TEXTS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera::openai {

// Thread-safe.
class ChunkTexts {
 public:
  virtual ~ChunkTexts() = default;

  // The text that was sent to /v1/chunks for this id under this salt, as one segment of a prompt.
  // May wait for the cache, a second at most. Errors: INVALID_ARGUMENT (not an id), NOT_FOUND (never
  // stored, deleted, or evicted: send the text again), FAILED_PRECONDITION (this gateway has no cache),
  // UNAVAILABLE.
  virtual absl::StatusOr<std::string> TextOf(std::string_view id, std::string_view salt) = 0;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_CHUNK_TEXTS_H_
