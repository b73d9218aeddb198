// What clients of the chunk API ask for, checked and without JSON.
#ifndef TESSERA_GATEWAY_CHUNKS_CHUNK_REQUEST_H_
#define TESSERA_GATEWAY_CHUNKS_CHUNK_REQUEST_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/http/message.h"
#include "gateway/text/chat_template.h"

namespace tessera::openai {

// POST /v1/chunks.
struct IngestRequest {
  // Empty: whatever is served.
  std::string model;
  std::vector<ChatDocument> texts;
  std::string cache_salt;
  // Pin for so long; absent: not at all.
  std::optional<absl::Duration> ttl;
  bool stream = false;
};

// `texts` or `documents` (strings, or objects of a title and a text), `cache_salt`, `ttl_seconds`,
// `stream`, `model`. Errors: INVALID_ARGUMENT naming the parameter, also for no text, an empty one,
// or more than `max_texts`.
absl::StatusOr<IngestRequest> ParseIngest(const http::Request& request, size_t max_texts);

// The salt of a request without a body: `cache_salt` of the query, or X-Tessera-Cache-Salt; empty
// without either. INVALID_ARGUMENT: not UTF-8.
absl::StatusOr<std::string> SaltOf(const http::Request& request);

// POST /v1/chunks/{id}/pin: `ttl_seconds` of the body, required. INVALID_ARGUMENT, as above.
absl::StatusOr<absl::Duration> ParsePin(const http::Request& request);

// GET /v1/chunks.
struct ListChunksRequest {
  uint32_t limit = 100;
  std::string after;  // `last_id` of the page before; empty for the first
};
// INVALID_ARGUMENT: `limit` is not 1 to 1000.
absl::StatusOr<ListChunksRequest> ParseList(const http::Request& request);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_CHUNKS_CHUNK_REQUEST_H_
