#include "gateway/openai/unsupported.h"

#include <span>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "boost/json/value.hpp"
#include "gateway/openai/error.h"
#include "gateway/openai/views.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

// A value of a parameter that changes nothing.
using Harmless = bool (*)(const json::value& value);

bool Never(const json::value&) { return false; }

bool False(const json::value& value) { return value.is_bool() && !value.get_bool(); }

bool True(const json::value& value) { return value.is_bool() && value.get_bool(); }

bool Zero(const json::value& value) {
  return value.is_number() && value.to_number<double>() == 0.0;
}

bool One(const json::value& value) { return value.is_number() && value.to_number<double>() == 1.0; }

bool Empty(const json::value& value) {
  return (value.is_array() && value.get_array().empty()) ||
         (value.is_object() && value.get_object().empty()) ||
         (value.is_string() && value.get_string().empty());
}

bool NoneOrAuto(const json::value& value) { return value == "none" || value == "auto"; }

bool OnlyText(const json::value& value) {
  const json::object* const object = value.if_object();
  if (object != nullptr) {  // response_format
    const json::value* const type = object->if_contains("type");
    return type != nullptr && *type == "text";
  }
  const json::array* const array = value.if_array();  // modalities
  return array != nullptr && array->size() == 1 && array->front() == "text";
}

struct Parameter {
  std::string_view name;
  Harmless harmless;
};

constexpr Parameter kParameters[] = {
    {"suffix", Empty},
    {"prompt_logprobs", Never},
    {"length_penalty", One},
    {"use_beam_search", False},
    {"tools", Empty},
    {"tool_choice", NoneOrAuto},
    {"functions", Empty},
    {"function_call", NoneOrAuto},
    {"response_format", OnlyText},
    {"structured_outputs", Never},
    {"guided_json", Never},
    {"guided_regex", Never},
    {"guided_choice", Never},
    {"guided_grammar", Never},
    {"guided_decoding_backend", Never},
    {"guided_whitespace_pattern", Never},
    {"modalities", OnlyText},
    {"audio", Never},
    {"prediction", Never},
    {"prompt_embeds", Never},
    {"web_search_options", Never},
    {"chat_template", Never},
    {"bad_words", Empty},
    {"allowed_token_ids", Never},
    {"logits_processors", Empty},
    {"return_tokens_as_token_ids", False},
    {"spaces_between_special_tokens", True},
};

constexpr Parameter kChatParameters[] = {
    {"echo", False},
    // The template writes them.
    {"add_special_tokens", False},
};

constexpr Parameter kCompletionParameters[] = {
    {"top_logprobs", Zero},
    {"add_special_tokens", True},
    {"continue_final_message", False},
};

absl::Status Check(const json::object& body, std::span<const Parameter> parameters) {
  for (const Parameter& parameter : parameters) {
    const json::value* const value = body.if_contains(json::string_view(parameter.name));
    if (value == nullptr || value->is_null() || parameter.harmless(*value)) continue;
    return ParameterError(parameter.name,
                          absl::StrCat("'", AbslView(parameter.name),
                                       "' is not supported with this value: leave it out"),
                          "unsupported_parameter");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckUnsupported(const json::object& body, bool chat) {
  RETURN_IF_ERROR(Check(body, kParameters));
  if (chat) return Check(body, kChatParameters);
  return Check(body, kCompletionParameters);
}

}  // namespace tessera::openai
