#include "gateway/openai/prepare.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "gateway/openai/error.h"
#include "gateway/openai/views.h"

namespace tessera::openai {
namespace {

namespace v1 = worker::v1;

// OpenAI's default for completions.
constexpr uint32_t kDefaultCompletionTokens = 16;

// What the segmenter refuses is the client's to change, whatever its code: a template that ran too
// long is no reason to try again later.
absl::Status SegmentingError(const absl::Status& status, std::string_view param) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
      return ParameterError(param, StdView(status.message()));
    default:
      return status;
  }
}

absl::StatusOr<SegmentedPrompt> Segment(const ApiRequest& request, const ModelText& text,
                                        const SegmenterOptions& options,
                                        const v1::GetModelResponse& model) {
  if (const auto* const ids = std::get_if<std::vector<uint32_t>>(&request.prompt)) {
    for (const uint32_t id : *ids) {
      if (id < model.vocab_size()) continue;
      return ParameterError(
          "prompt",
          absl::StrCat("token id ", id, " in 'prompt' is not below the vocabulary's size, ",
                       model.vocab_size()));
    }
    return SegmentedPrompt{.segments = {*ids}};
  }
  const auto* const chat = std::get_if<ChatPrompt>(&request.prompt);
  absl::StatusOr<SegmentedPrompt> segmented =
      chat != nullptr ? SegmentChat(text, *chat, options)
                      : SegmentCompletion(text, std::get<std::string>(request.prompt), options);
  if (!segmented.ok()) {
    return SegmentingError(segmented.status(), chat != nullptr ? "messages" : "prompt");
  }
  return segmented;
}

// The max_tokens that the worker gets, checked against the model's length.
absl::StatusOr<uint32_t> FitMaxTokens(const ApiRequest& request, size_t prompt_tokens,
                                      size_t max_len) {
  const std::string_view param = request.endpoint == Endpoint::kChat ? "messages" : "prompt";
  if (prompt_tokens >= max_len) {
    return ParameterError(param,
                          absl::StrCat("this model's context is ", max_len,
                                       " tokens, prompt and answer together; the prompt alone has ",
                                       prompt_tokens, ": shorten it"),
                          "context_length_exceeded");
  }
  const size_t room = max_len - prompt_tokens;
  if (!request.max_tokens) {
    const size_t wanted = request.endpoint == Endpoint::kChat ? room : kDefaultCompletionTokens;
    return static_cast<uint32_t>(std::min(wanted, room));
  }
  if (*request.max_tokens > room) {
    return ParameterError(
        param,
        absl::StrCat("this model's context is ", max_len,
                     " tokens, prompt and answer together; the prompt has ", prompt_tokens,
                     " and max_tokens asks for ", *request.max_tokens,
                     ": shorten the prompt, or set max_tokens to at most ", room),
        "context_length_exceeded");
  }
  return *request.max_tokens;
}

}  // namespace

absl::StatusOr<v1::GenerateRequest> Prepare(const ApiRequest& request, const ModelText& text,
                                            const SegmenterOptions& options,
                                            const v1::GetModelResponse& model) {
  if (!request.model.empty() && request.model != model.name()) {
    return ModelNotFound(request.model, model.name());
  }
  ASSIGN_OR_RETURN(const SegmentedPrompt prompt, Segment(request, text, options, model));
  ASSIGN_OR_RETURN(const uint32_t max_tokens,
                   FitMaxTokens(request, prompt.token_count(), model.max_len()));
  v1::GenerateRequest generate;
  for (const std::vector<uint32_t>& ids : prompt.segments) {
    generate.add_segments()->mutable_token_ids()->Add(ids.begin(), ids.end());
  }
  generate.set_max_tokens(max_tokens);
  *generate.mutable_sampling() = request.sampling;
  *generate.mutable_blend() = request.blend;
  generate.mutable_stop_token_ids()->Add(request.stop_token_ids.begin(),
                                         request.stop_token_ids.end());
  generate.set_ignore_eos(request.ignore_eos);
  generate.set_cache_salt(request.cache_salt);
  return generate;
}

}  // namespace tessera::openai
