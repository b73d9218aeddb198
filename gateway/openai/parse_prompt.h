// The prompt of a request body: completion prompts, chat messages, documents.
#ifndef TESSERA_GATEWAY_OPENAI_PARSE_PROMPT_H_
#define TESSERA_GATEWAY_OPENAI_PARSE_PROMPT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "boost/json/object.hpp"
#include "gateway/openai/chunk_resolver.h"
#include "gateway/text/chat_template.h"

namespace tessera::openai {

// Text, token ids, text in parts (with a border between every two), or a chat. Chunks that the
// client named by id are their texts here: equal texts are equal token ids, so it is all the same.
using TextParts = std::vector<std::string>;
using Prompt = std::variant<std::string, std::vector<uint32_t>, TextParts, ChatPrompt>;

// `prompt`: a string, an array of token ids, an array of parts ({"type": "text", "text": ...} or
// {"type": "chunk", "id": ...}), or an array of these, each a prompt of its own: at least one.
// Errors: INVALID_ARGUMENT naming the parameter, such as prompt or prompt[2]; for more prompts than
// `max_prompts`; and those of ChunkResolver::Resolve.
absl::StatusOr<std::vector<Prompt>> ParseCompletionPrompts(const boost::json::object& body,
                                                           size_t max_prompts,
                                                           ChunkResolver& chunks);

// `messages`, `documents`, `chat_template_kwargs`, `add_generation_prompt` and
// `continue_final_message`. Content parts and documents may name chunks.
// Errors: INVALID_ARGUMENT naming the parameter, such as messages[2].role; those of Resolve.
absl::StatusOr<Prompt> ParseChatPrompt(const boost::json::object& body, ChunkResolver& chunks);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_PARSE_PROMPT_H_
