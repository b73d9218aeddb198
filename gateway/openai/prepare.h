// From a checked API request to the worker's request: text becomes segments of token ids.
#ifndef TESSERA_GATEWAY_OPENAI_PREPARE_H_
#define TESSERA_GATEWAY_OPENAI_PREPARE_H_

#include "absl/status/statusor.h"
#include "gateway/openai/request.h"
#include "gateway/text/model_text.h"
#include "gateway/text/segmenter.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

// Tokenizes, cuts into segments and checks against what the workers serve. The result has no
// request id yet. A default max_tokens is cut down to what fits; an explicit one is not.
// Errors: NOT_FOUND (model_not_found); INVALID_ARGUMENT for an empty prompt, an empty segment, a
// token id outside the vocabulary, and (context_length_exceeded) a prompt that with max_tokens is
// longer than the model's max_len.
absl::StatusOr<worker::v1::GenerateRequest> Prepare(const ApiRequest& request,
                                                    const ModelText& text,
                                                    const SegmenterOptions& options,
                                                    const worker::v1::GetModelResponse& model);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_PREPARE_H_
