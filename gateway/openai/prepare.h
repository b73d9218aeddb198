// From a checked API request to the worker's request: text becomes segments of token ids.
#ifndef TESSERA_GATEWAY_OPENAI_PREPARE_H_
#define TESSERA_GATEWAY_OPENAI_PREPARE_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "gateway/openai/request.h"
#include "gateway/text/model_text.h"
#include "gateway/text/segmenter.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

// Immutable; every call may come from any thread.
class Preparer {
 public:
  // `text` must outlive it.
  Preparer(const ModelText* text, SegmenterOptions options);

  // Tokenizes, cuts into segments and checks against what the workers serve. The result has no
  // request id yet. A default max_tokens is cut down to what fits; an explicit one is not.
  // Errors: NOT_FOUND (model_not_found); INVALID_ARGUMENT for an empty prompt, an empty segment, a
  // token id outside the vocabulary, and (context_length_exceeded) a prompt that with max_tokens is
  // longer than the model's max_len.
  absl::StatusOr<worker::v1::GenerateRequest> Prepare(
      const ApiRequest& request, const worker::v1::GetModelResponse& model) const;

 private:
  absl::StatusOr<SegmentedPrompt> Segment(const ApiRequest& request,
                                          const worker::v1::GetModelResponse& model) const;

  const ModelText* const text_;
  const SegmenterOptions options_;
  // Bytes of the vocabulary's longest token: so many bytes of text are at least one token.
  const size_t longest_token_;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_PREPARE_H_
