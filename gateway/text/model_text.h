// Everything about text that a model folder says: its tokenizer, its chat template, its BOS.
#ifndef TESSERA_GATEWAY_TEXT_MODEL_TEXT_H_
#define TESSERA_GATEWAY_TEXT_MODEL_TEXT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "gateway/text/chat_template.h"
#include "gateway/text/tokenizer.h"

namespace tessera {

// Immutable after loading: shared by all requests and threads.
struct ModelText {
  std::unique_ptr<const Tokenizer> tokenizer;
  // Absent when the model has none: then only completion prompts are served.
  std::optional<ChatTemplate> chat_template;
  // Put before a completion prompt. Set when tokenizer_config.json says add_bos_token, or says
  // nothing of it and tokenizer.json's post_processor starts with the BOS (or there is only a
  // sentencepiece model, whose default it is). A chat template writes its own.
  std::optional<uint32_t> completion_bos;
};

// Reads tokenizer.json or tokenizer.model, tokenizer_config.json and chat_template.jinja.
// Errors: those of LoadTokenizer and ChatTemplate::Load; INVALID_ARGUMENT when
// tokenizer_config.json is damaged. A folder without tokenizer_config.json has no chat template and
// no BOS.
absl::StatusOr<ModelText> LoadModelText(const std::string& model_dir);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_MODEL_TEXT_H_
