// What a client asks for, checked and without JSON.
#ifndef TESSERA_GATEWAY_OPENAI_REQUEST_H_
#define TESSERA_GATEWAY_OPENAI_REQUEST_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/http/message.h"
#include "gateway/openai/chunk_texts.h"
#include "gateway/openai/parse_prompt.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

enum class Endpoint { kCompletions, kChat };

struct ApiRequest {
  Endpoint endpoint = Endpoint::kCompletions;
  // Empty: whatever is served.
  std::string model;
  // At least one; just one in a chat.
  std::vector<Prompt> prompts;
  // Answers to each prompt. Answer j of prompt i is choice i * n + j.
  uint32_t n = 1;
  // Absent: 16 for completions, up to the model's length for chat. 0 (only with echo): the prompt
  // is scored and nothing answered.
  std::optional<uint32_t> max_tokens;
  // Only so many of the prompt's last tokens are kept; 0: as many as fit.
  std::optional<uint32_t> truncate_prompt_tokens;
  worker::v1::SamplingOptions sampling;
  worker::v1::BlendOptions blend;
  std::vector<std::string> stop;
  std::vector<uint32_t> stop_token_ids;
  bool include_stop = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  // The prompt's text stands before every answer.
  bool echo = false;
  // Report logprobs: of every token, and of so many of the likeliest beside it.
  std::optional<uint32_t> logprobs;
  bool return_token_ids = false;
  std::string cache_salt;
  int32_t priority = 0;
  bool stream = false;
  bool include_usage = false;
  // Every chunk of a stream says what the request has used so far.
  bool continuous_usage = false;
};

struct ParseLimits {
  size_t max_prompts = 64;
};

// Reads and checks a request: its body, and the X-Tessera-* headers. Chunks that prompts name are
// looked up in `chunk_texts` (null: there are none), which may take a while. Fields that are not
// known are ignored; fields that are known but not implemented are errors where ignoring them would
// change the answer's meaning.
// Errors: INVALID_ARGUMENT with the parameter's name and what to change; those of ChunkResolver.
absl::StatusOr<ApiRequest> ParseRequest(Endpoint endpoint, const http::Request& request,
                                        const ParseLimits& limits, ChunkTexts* chunk_texts);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_REQUEST_H_
