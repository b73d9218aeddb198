// What a client asks for, checked and without JSON.
#ifndef TESSERA_GATEWAY_OPENAI_REQUEST_H_
#define TESSERA_GATEWAY_OPENAI_REQUEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/text/chat_template.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

enum class Endpoint { kCompletions, kChat };

struct ApiRequest {
  Endpoint endpoint = Endpoint::kCompletions;
  // Empty: whatever is served.
  std::string model;
  // The prompt: text or token ids (completions), or messages and documents (chat).
  std::variant<std::string, std::vector<uint32_t>, ChatPrompt> prompt;
  // Absent: 16 for completions, up to the model's length for chat.
  std::optional<uint32_t> max_tokens;
  worker::v1::SamplingOptions sampling;
  worker::v1::BlendOptions blend;
  std::vector<std::string> stop;
  std::vector<uint32_t> stop_token_ids;
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  std::string cache_salt;
  bool stream = false;
  bool include_usage = false;
};

// Reads and checks a request's body. Fields that are not known are ignored; fields that are known
// but not implemented are errors where ignoring them would change the answer's meaning.
// Errors: INVALID_ARGUMENT with the parameter's name and what to change.
absl::StatusOr<ApiRequest> ParseRequest(Endpoint endpoint, std::string_view body);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_REQUEST_H_
