// From a checked API request to the workers' requests: text becomes segments of token ids.
#ifndef TESSERA_GATEWAY_OPENAI_PREPARE_H_
#define TESSERA_GATEWAY_OPENAI_PREPARE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/openai/request.h"
#include "gateway/text/model_text.h"
#include "gateway/text/segmenter.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

// One prompt, ready for a worker.
struct PreparedPrompt {
  // Without a request id.
  worker::v1::GenerateRequest generate;
  // What an echo repeats: the prompt as it was sent where that is one text and all of it is used,
  // otherwise the text of the tokens that the model gets. Empty without echo.
  std::string echo;
};

// Immutable; every call may come from any thread.
class Preparer {
 public:
  // `text` must outlive it.
  Preparer(const ModelText* text, SegmenterOptions options);

  // Tokenizes, cuts into segments and checks against what the workers serve; as many as the request
  // has prompts, in their order. A default max_tokens is cut down to what fits; an explicit one is
  // not. A worker is asked for one token where the client wants none (max_tokens 0).
  // Errors: NOT_FOUND (model_not_found); INVALID_ARGUMENT for an empty prompt, an empty segment, a
  // token id outside the vocabulary, and (context_length_exceeded) a prompt that with max_tokens is
  // longer than the model's max_len.
  absl::StatusOr<std::vector<PreparedPrompt>> Prepare(
      const ApiRequest& request, const worker::v1::GetModelResponse& model) const;

 private:
  absl::StatusOr<SegmentedPrompt> Segment(const Prompt& prompt, const std::string& param,
                                          const worker::v1::GetModelResponse& model) const;
  absl::StatusOr<PreparedPrompt> PrepareOne(const ApiRequest& request, const Prompt& prompt,
                                            const std::string& param,
                                            const worker::v1::GetModelResponse& model) const;

  const ModelText* const text_;
  const SegmenterOptions options_;
  // Bytes of the vocabulary's longest token: so many bytes of text are at least one token.
  const size_t longest_token_;
};

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_PREPARE_H_
