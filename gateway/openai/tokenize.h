// POST /tokenize and POST /detokenize.
#ifndef TESSERA_GATEWAY_OPENAI_TOKENIZE_H_
#define TESSERA_GATEWAY_OPENAI_TOKENIZE_H_

#include "absl/status/statusor.h"
#include "boost/json/object.hpp"
#include "gateway/http/message.h"
#include "gateway/openai/chunk_texts.h"
#include "gateway/text/model_text.h"
#include "gateway/text/segmenter.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

struct TokenizeContext {
  const ModelText* text = nullptr;
  SegmenterOptions segmenter;
  // Looks up chunks that prompts name; null: there are none.
  ChunkTexts* chunk_texts = nullptr;
};

// {count, max_model_len, tokens, token_strs} of a `prompt` or of `messages`, cut into segments as a
// completion request would be, so that count is its usage.prompt_tokens. `add_special_tokens`
// (default true) of a prompt puts the model's BOS in front where the model has one;
// `return_token_strs` (default false) fills token_strs, else null. Errors: INVALID_ARGUMENT with
// the parameter's name and what to change; NOT_FOUND (model_not_found); those of ChunkResolver.
absl::StatusOr<boost::json::object> Tokenize(const TokenizeContext& context,
                                             const worker::v1::GetModelResponse& model,
                                             const http::Request& request);

// {prompt} of `tokens`, special tokens as their texts. INVALID_ARGUMENT: not ids of the vocabulary.
absl::StatusOr<boost::json::object> Detokenize(const TokenizeContext& context,
                                               const worker::v1::GetModelResponse& model,
                                               const http::Request& request);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_TOKENIZE_H_
