// The prompt of a request body: completion prompts, chat messages, documents.
#ifndef TESSERA_GATEWAY_OPENAI_PARSE_PROMPT_H_
#define TESSERA_GATEWAY_OPENAI_PARSE_PROMPT_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "boost/json/object.hpp"
#include "gateway/text/chat_template.h"

namespace tessera::openai {

using Prompt = std::variant<std::string, std::vector<uint32_t>, ChatPrompt>;

// `prompt`: a string, an array of token ids, or an array with one of either.
// Errors: INVALID_ARGUMENT naming `prompt`.
absl::StatusOr<Prompt> ParseCompletionPrompt(const boost::json::object& body);

// `messages`, `documents`, `chat_template_kwargs` and `add_generation_prompt`.
// Errors: INVALID_ARGUMENT naming the parameter, such as messages[2].role.
absl::StatusOr<Prompt> ParseChatPrompt(const boost::json::object& body);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_PARSE_PROMPT_H_
