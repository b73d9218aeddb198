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
// A tokenizer's normalizer makes text shorter by this factor at the most (Hangul letters to one
// syllable: 3).
constexpr size_t kMaxShrink = 4;

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

size_t LongestToken(const Tokenizer& tokenizer) {
  size_t longest = 1;
  for (uint32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    longest = std::max(longest, tokenizer.TokenBytes(id).size());
  }
  return longest;
}

size_t TextBytes(const ApiRequest& request) {
  if (const auto* const text = std::get_if<std::string>(&request.prompt)) return text->size();
  const auto* const chat = std::get_if<ChatPrompt>(&request.prompt);
  if (chat == nullptr) return 0;
  size_t bytes = 0;
  for (const ChatMessage& message : chat->messages) {
    for (const std::string& part : message.parts) bytes += part.size();
  }
  for (const ChatDocument& document : chat->documents) bytes += document.text.size();
  return bytes;
}

std::string_view PromptParam(const ApiRequest& request) {
  return request.endpoint == Endpoint::kChat ? "messages" : "prompt";
}

// The max_tokens that the worker gets, checked against the model's length.
absl::StatusOr<uint32_t> FitMaxTokens(const ApiRequest& request, size_t prompt_tokens,
                                      size_t max_len) {
  const std::string_view param = PromptParam(request);
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

Preparer::Preparer(const ModelText* text, SegmenterOptions options)
    : text_(text), options_(std::move(options)), longest_token_(LongestToken(*text->tokenizer)) {}

absl::StatusOr<SegmentedPrompt> Preparer::Segment(const ApiRequest& request,
                                                  const v1::GetModelResponse& model) const {
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
  // Megabytes of text need not be tokenized to know that they do not fit.
  const size_t bytes = TextBytes(request);
  if (bytes / kMaxShrink / longest_token_ > model.max_len()) {
    return ParameterError(PromptParam(request),
                          absl::StrCat("this model's context is ", model.max_len(),
                                       " tokens, prompt and answer together; the prompt alone has ",
                                       bytes, " bytes: shorten it"),
                          "context_length_exceeded");
  }
  const auto* const chat = std::get_if<ChatPrompt>(&request.prompt);
  absl::StatusOr<SegmentedPrompt> segmented =
      chat != nullptr ? SegmentChat(*text_, *chat, options_)
                      : SegmentCompletion(*text_, std::get<std::string>(request.prompt), options_);
  if (!segmented.ok()) return SegmentingError(segmented.status(), PromptParam(request));
  return segmented;
}

absl::StatusOr<v1::GenerateRequest> Preparer::Prepare(const ApiRequest& request,
                                                      const v1::GetModelResponse& model) const {
  if (!request.model.empty() && request.model != model.name()) {
    return ModelNotFound(request.model, model.name());
  }
  ASSIGN_OR_RETURN(const SegmentedPrompt prompt, Segment(request, model));
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
