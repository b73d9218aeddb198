#include "gateway/text/model_text.h"

#include <filesystem>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/json_access.h"

namespace tessera {
namespace {

using Json = boost::json::object;

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// A token in tokenizer_config.json is a string, or an object with its "content".
std::string TokenText(const Json& config, std::string_view key) {
  const boost::json::value* value = JsonFind(config, key);
  if (value != nullptr && value->is_object()) {
    return std::string(JsonString(value->get_object(), "content"));
  }
  return std::string(JsonString(config, key));
}

// The template's source: a file of its own, or a string, or the one named "default" of a list.
absl::StatusOr<std::optional<std::string>> TemplateSource(const std::string& model_dir,
                                                          const Json& config) {
  const std::string path = Concat(model_dir, "/chat_template.jinja");
  if (Exists(path)) {
    ASSIGN_OR_RETURN(std::string source, ReadFile(path));
    return source;
  }
  const boost::json::value* value = JsonFind(config, "chat_template");
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return std::string(JsonString(config, "chat_template"));
  if (value->is_array()) {
    for (const boost::json::value& entry : value->get_array()) {
      const Json* named = entry.if_object();
      if (named == nullptr || JsonString(*named, "name") != "default") continue;
      return std::string(JsonString(*named, "template"));
    }
  }
  return absl::InvalidArgumentError(
      Concat(model_dir,
             "/tokenizer_config.json: chat_template is neither a string nor a list with "
             "a template named default"));
}

// Whether a post-processor puts `bos` before a text.
bool StartsWithBos(const boost::json::value* processor, std::string_view bos) {
  const Json* object = processor == nullptr ? nullptr : processor->if_object();
  if (object == nullptr) return false;
  for (const std::string_view key : {"processors", "single"}) {
    const boost::json::value* steps = JsonFind(*object, key);
    if (steps == nullptr || !steps->is_array()) continue;
    for (const boost::json::value& step : steps->get_array()) {
      if (key == "processors" && StartsWithBos(&step, bos)) return true;
      if (key == "processors" || !step.is_object()) continue;
      const boost::json::value* special = JsonFind(step.get_object(), "SpecialToken");
      return special != nullptr && special->is_object() &&
             JsonString(special->get_object(), "id") == bos;
    }
  }
  return false;
}

absl::StatusOr<bool> AddsBos(const std::string& model_dir, const Json& config,
                             std::string_view bos) {
  if (bos.empty()) return false;
  if (JsonFind(config, "add_bos_token") != nullptr) {
    return JsonBool(config, "add_bos_token", false);
  }
  const std::string path = Concat(model_dir, "/tokenizer.json");
  if (!Exists(path)) return true;  // the default of Hugging Face's classes for sentencepiece
  ASSIGN_OR_RETURN(const Json json, ReadJsonObject(path));
  return StartsWithBos(JsonFind(json, "post_processor"), bos);
}

}  // namespace

absl::StatusOr<ModelText> LoadModelText(const std::string& model_dir) {
  ModelText model;
  ASSIGN_OR_RETURN(model.tokenizer, LoadTokenizer(model_dir));
  const std::string config_path = Concat(model_dir, "/tokenizer_config.json");
  Json config;
  if (Exists(config_path)) {
    ASSIGN_OR_RETURN(config, ReadJsonObject(config_path));
  }
  const TemplateTokens tokens = {.bos_token = TokenText(config, "bos_token"),
                                 .eos_token = TokenText(config, "eos_token"),
                                 .pad_token = TokenText(config, "pad_token"),
                                 .unk_token = TokenText(config, "unk_token")};
  ASSIGN_OR_RETURN(const std::optional<std::string> source, TemplateSource(model_dir, config));
  if (source.has_value()) {
    ASSIGN_OR_RETURN(model.chat_template, ChatTemplate::Load(*source, tokens));
  }
  ASSIGN_OR_RETURN(const bool adds_bos, AddsBos(model_dir, config, tokens.bos_token));
  if (adds_bos) {
    model.completion_bos = model.tokenizer->TokenId(tokens.bos_token);
    if (!model.completion_bos.has_value()) {
      return absl::InvalidArgumentError(
          Concat(config_path, ": bos_token \"", tokens.bos_token, "\" is not in the vocabulary"));
    }
  }
  return model;
}

}  // namespace tessera
