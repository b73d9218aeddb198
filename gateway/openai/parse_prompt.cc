#include "gateway/openai/parse_prompt.h"

#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "gateway/openai/error.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/views.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

constexpr std::string_view kPromptForms =
    "must be a string, an array of token ids, an array of parts such as {\"type\": \"text\", "
    "\"text\": ...}, or an array of several such prompts";

absl::Status Must(const std::string& name, std::string_view must) {
  return ParameterError(name, absl::StrCat("'", name, "' ", AbslView(must)));
}

// A part of a message's content or of a prompt: its text, or that of the chunk it names.
absl::StatusOr<std::string> ParsePart(const json::value& value, const std::string& name,
                                      ChunkResolver& chunks) {
  const json::object* const part = value.if_object();
  const json::value* const type = part == nullptr ? nullptr : part->if_contains("type");
  const bool chunk = type != nullptr && *type == "chunk";
  if (!chunk && (type == nullptr || *type != "text")) {
    return Must(name,
                "must be {\"type\": \"text\", \"text\": ...} or {\"type\": \"chunk\", \"id\": "
                "...}: this model reads only text");
  }
  const char* const field = chunk ? "id" : "text";
  const json::value* const text = part->if_contains(field);
  const std::string text_name = absl::StrCat(name, ".", field);
  if (text == nullptr || !text->is_string()) return Must(text_name, "must be a string");
  if (chunk) return chunks.Resolve(text->get_string(), text_name);
  return std::string(text->get_string());
}

absl::StatusOr<std::vector<std::string>> ParseContent(const json::array& content,
                                                      const std::string& name,
                                                      ChunkResolver& chunks) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < content.size(); ++i) {
    if (content[i].is_string()) {
      parts.emplace_back(content[i].get_string());
      continue;
    }
    ASSIGN_OR_RETURN(std::string text,
                     ParsePart(content[i], absl::StrCat(name, "[", i, "]"), chunks));
    parts.push_back(std::move(text));
  }
  return parts;
}

absl::StatusOr<ChatMessage> ParseMessage(const json::value& value, const std::string& name,
                                         ChunkResolver& chunks) {
  const json::object* const object = value.if_object();
  if (object == nullptr) return Must(name, "must be an object");
  ChatMessage message;
  Fields fields(*object, name + ".");
  fields.Read("role", &message.role);
  RETURN_IF_ERROR(fields.status());
  if (message.role.empty()) fields.Fail("role", "is required: system, user or assistant");
  const json::value* const content = fields.Find("content");
  const bool calls_tools = fields.Find("tool_calls") != nullptr;
  if (content == nullptr) {
    if (!calls_tools) fields.Fail("content", "is required: a string or an array of text parts");
  } else if (content->is_string()) {
    message.parts.emplace_back(content->get_string());
  } else if (content->is_array()) {
    ASSIGN_OR_RETURN(message.parts, ParseContent(content->get_array(), name + ".content", chunks));
  } else {
    fields.Fail("content", "must be a string or an array of text parts");
  }
  RETURN_IF_ERROR(fields.status());
  for (const auto& field : *object) {
    if (field.key() == "role" || field.key() == "content") continue;
    message.fields.insert(field);
  }
  return message;
}

absl::StatusOr<ChatDocument> ParseDocument(const json::value& value, const std::string& name,
                                           ChunkResolver& chunks) {
  ChatDocument document;
  if (value.is_string()) {
    document.text = std::string(value.get_string());
  } else if (value.is_object()) {
    std::string chunk;
    Fields fields(value.get_object(), name + ".");
    fields.Read("title", &document.title);
    fields.Read("text", &document.text);
    fields.Read("chunk_id", &chunk);
    if (!chunk.empty() && !(document.title.empty() && document.text.empty())) {
      fields.Fail("chunk_id", "stands alone: the chunk's text is all there is");
    }
    RETURN_IF_ERROR(fields.status());
    if (!chunk.empty()) {
      ASSIGN_OR_RETURN(document.text, chunks.Resolve(chunk, name + ".chunk_id"));
    }
  } else {
    return Must(
        name, "must be a string, {\"title\": ..., \"text\": ...} or {\"chunk_id\": \"chunk-...\"}");
  }
  if (document.text.empty()) return Must(name, "has no text: leave it out");
  return document;
}

absl::Status ParseOpening(Fields& fields, ChatPrompt* prompt) {
  fields.Read("continue_final_message", &prompt->continue_final_message);
  const bool asked = fields.Find("add_generation_prompt") != nullptr;
  fields.Read("add_generation_prompt", &prompt->add_generation_prompt);
  if (prompt->continue_final_message) {
    if (asked && prompt->add_generation_prompt) {
      fields.Fail("continue_final_message",
                  "continues the last message, and add_generation_prompt begins a new one: set "
                  "only one of them");
    }
    prompt->add_generation_prompt = false;
  }
  return fields.status();
}

absl::StatusOr<Prompt> ParsePrompt(const json::value& value, const std::string& name,
                                   ChunkResolver& chunks) {
  const std::string empty = "is empty: write at least one token";
  if (value.is_string()) {
    if (value.get_string().empty()) return Must(name, empty);
    return Prompt(std::string(value.get_string()));
  }
  if (!value.is_array()) return Must(name, kPromptForms);
  const json::array& array = value.get_array();
  if (array.empty()) return Must(name, empty);
  if (array.front().is_object()) {
    TextParts parts;
    for (size_t i = 0; i < array.size(); ++i) {
      ASSIGN_OR_RETURN(std::string part,
                       ParsePart(array[i], absl::StrCat(name, "[", i, "]"), chunks));
      parts.push_back(std::move(part));
    }
    return Prompt(std::move(parts));
  }
  std::optional<std::vector<uint32_t>> ids = TokenIds(array);
  if (!ids) return Must(name, "must be an array of token ids: whole numbers of at least 0");
  return Prompt(*std::move(ids));
}

}  // namespace

absl::StatusOr<std::vector<Prompt>> ParseCompletionPrompts(const json::object& body,
                                                           size_t max_prompts,
                                                           ChunkResolver& chunks) {
  const json::value* const value = Fields(body).Find("prompt");
  if (value == nullptr) {
    return Must("prompt", "is required: a string, an array of token ids or an array of parts");
  }
  const json::array* const array = value->if_array();
  const bool several = array != nullptr && !array->empty() &&
                       (array->front().is_string() || array->front().is_array());
  std::vector<Prompt> prompts;
  if (!several) {
    ASSIGN_OR_RETURN(Prompt prompt, ParsePrompt(*value, "prompt", chunks));
    prompts.push_back(std::move(prompt));
    return prompts;
  }
  if (array->size() > max_prompts) {
    return Must("prompt", absl::StrCat("must have at most ", max_prompts, " prompts, and has ",
                                       array->size(), ": send several requests"));
  }
  for (size_t i = 0; i < array->size(); ++i) {
    ASSIGN_OR_RETURN(Prompt prompt,
                     ParsePrompt((*array)[i], absl::StrCat("prompt[", i, "]"), chunks));
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

absl::StatusOr<Prompt> ParseChatPrompt(const json::object& body, ChunkResolver& chunks) {
  Fields fields(body);
  ChatPrompt prompt;
  const json::value* const messages = fields.Find("messages");
  if (messages == nullptr || !messages->is_array() || messages->get_array().empty()) {
    return Must("messages", "must be an array of at least one message");
  }
  const json::array& list = messages->get_array();
  for (size_t i = 0; i < list.size(); ++i) {
    ASSIGN_OR_RETURN(ChatMessage message,
                     ParseMessage(list[i], absl::StrCat("messages[", i, "]"), chunks));
    prompt.messages.push_back(std::move(message));
  }
  const json::value* const documents = fields.Find("documents");
  if (documents != nullptr && !documents->is_array()) {
    return Must("documents", "must be an array of strings or of {\"title\": ..., \"text\": ...}");
  }
  for (size_t i = 0; documents != nullptr && i < documents->get_array().size(); ++i) {
    ASSIGN_OR_RETURN(
        ChatDocument document,
        ParseDocument(documents->get_array()[i], absl::StrCat("documents[", i, "]"), chunks));
    prompt.documents.push_back(std::move(document));
  }
  const json::object* const variables = fields.FindObject("chat_template_kwargs");
  if (variables != nullptr) prompt.variables = *variables;
  RETURN_IF_ERROR(ParseOpening(fields, &prompt));
  return Prompt(std::move(prompt));
}

}  // namespace tessera::openai
