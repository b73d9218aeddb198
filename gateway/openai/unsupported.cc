#include "gateway/openai/unsupported.h"

#include <string_view>

#include "absl/strings/str_cat.h"
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
    {"n", One},
    {"best_of", One},
    {"echo", False},
    {"suffix", Empty},
    {"logprobs", False},
    {"top_logprobs", Zero},
    {"prompt_logprobs", Never},
    {"logit_bias", Empty},
    {"presence_penalty", Zero},
    {"frequency_penalty", Zero},
    {"repetition_penalty", One},
    {"min_p", Zero},
    {"min_tokens", Zero},
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
    {"modalities", OnlyText},
    {"audio", Never},
    {"prediction", Never},
    {"truncate_prompt_tokens", Never},
    {"include_stop_str_in_output", False},
    {"continue_final_message", False},
    {"chat_template", Never},
    {"add_special_tokens", True},
};

}  // namespace

absl::Status CheckUnsupported(const json::object& body) {
  for (const Parameter& parameter : kParameters) {
    const json::value* const value = body.if_contains(json::string_view(parameter.name));
    if (value == nullptr || value->is_null() || parameter.harmless(*value)) continue;
    return ParameterError(parameter.name,
                          absl::StrCat("'", AbslView(parameter.name),
                                       "' is not supported with this value: leave it out"),
                          "unsupported_parameter");
  }
  return absl::OkStatus();
}

}  // namespace tessera::openai
