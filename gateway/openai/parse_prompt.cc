#include "gateway/openai/parse_prompt.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "gateway/openai/error.h"
#include "gateway/openai/fields.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

absl::StatusOr<std::vector<std::string>> ParseParts(const json::array& content,
                                                    const std::string& name) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string part_name = absl::StrCat(name, "[", i, "]");
    if (content[i].is_string()) {
      parts.emplace_back(content[i].get_string());
      continue;
    }
    const json::object* const part = content[i].if_object();
    const json::value* const type = part == nullptr ? nullptr : part->if_contains("type");
    if (type == nullptr || *type != "text") {
      return ParameterError(part_name, absl::StrCat("'", part_name,
                                                    "' must be {\"type\": \"text\", \"text\": "
                                                    "...}: this model reads only text"));
    }
    const json::value* const text = part->if_contains("text");
    if (text == nullptr || !text->is_string()) {
      return ParameterError(part_name + ".text",
                            absl::StrCat("'", part_name, ".text' must be a string"));
    }
    parts.emplace_back(text->get_string());
  }
  return parts;
}

absl::StatusOr<ChatMessage> ParseMessage(const json::value& value, const std::string& name) {
  const json::object* const object = value.if_object();
  if (object == nullptr) {
    return ParameterError(name, absl::StrCat("'", name, "' must be an object"));
  }
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
    ASSIGN_OR_RETURN(message.parts, ParseParts(content->get_array(), name + ".content"));
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

absl::StatusOr<ChatDocument> ParseDocument(const json::value& value, const std::string& name) {
  ChatDocument document;
  if (value.is_string()) {
    document.text = std::string(value.get_string());
  } else if (value.is_object()) {
    Fields fields(value.get_object(), name + ".");
    fields.Read("title", &document.title);
    fields.Read("text", &document.text);
    RETURN_IF_ERROR(fields.status());
  } else {
    return ParameterError(
        name, absl::StrCat("'", name, "' must be a string or {\"title\": ..., \"text\": ...}"));
  }
  if (document.text.empty()) {
    return ParameterError(name, absl::StrCat("'", name, "' has no text: leave it out"));
  }
  return document;
}

}  // namespace

absl::StatusOr<Prompt> ParseCompletionPrompt(const json::object& body) {
  Fields fields(body);
  const json::value* prompt = fields.Find("prompt");
  if (prompt == nullptr) {
    fields.Fail("prompt", "is required: a string or an array of token ids");
    return fields.status();
  }
  const json::array* array = prompt->if_array();
  const bool nested = array != nullptr && !array->empty() && !array->front().is_number();
  if (nested && array->size() > 1) {
    fields.Fail("prompt", "must be one prompt: send one request for each of several");
    return fields.status();
  }
  if (nested) prompt = &array->front();
  if (prompt->is_string()) {
    if (prompt->get_string().empty()) {
      fields.Fail("prompt", "is empty: write at least one token");
      return fields.status();
    }
    return Prompt(std::string(prompt->get_string()));
  }
  if (!prompt->is_array()) {
    fields.Fail("prompt", "must be a string or an array of token ids");
    return fields.status();
  }
  std::optional<std::vector<uint32_t>> ids = TokenIds(prompt->get_array());
  if (!ids) {
    fields.Fail("prompt", "must be an array of token ids: whole numbers of at least 0");
    return fields.status();
  }
  if (ids->empty()) {
    fields.Fail("prompt", "is empty: write at least one token");
    return fields.status();
  }
  return Prompt(*std::move(ids));
}

absl::StatusOr<Prompt> ParseChatPrompt(const json::object& body) {
  Fields fields(body);
  ChatPrompt prompt;
  const json::value* const messages = fields.Find("messages");
  if (messages == nullptr || !messages->is_array() || messages->get_array().empty()) {
    fields.Fail("messages", "must be an array of at least one message");
    return fields.status();
  }
  const json::array& list = messages->get_array();
  for (size_t i = 0; i < list.size(); ++i) {
    ASSIGN_OR_RETURN(ChatMessage message, ParseMessage(list[i], absl::StrCat("messages[", i, "]")));
    prompt.messages.push_back(std::move(message));
  }
  const json::value* const documents = fields.Find("documents");
  if (documents != nullptr && !documents->is_array()) {
    fields.Fail("documents", "must be an array of strings or of {\"title\": ..., \"text\": ...}");
    return fields.status();
  }
  for (size_t i = 0; documents != nullptr && i < documents->get_array().size(); ++i) {
    ASSIGN_OR_RETURN(ChatDocument document,
                     ParseDocument(documents->get_array()[i], absl::StrCat("documents[", i, "]")));
    prompt.documents.push_back(std::move(document));
  }
  const json::object* const variables = fields.FindObject("chat_template_kwargs");
  if (variables != nullptr) prompt.variables = *variables;
  fields.Read("add_generation_prompt", &prompt.add_generation_prompt);
  RETURN_IF_ERROR(fields.status());
  return Prompt(std::move(prompt));
}

}  // namespace tessera::openai
