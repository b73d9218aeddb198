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

size_t TextBytes(const Prompt& prompt) {
  size_t bytes = 0;
  if (const auto* const text = std::get_if<std::string>(&prompt)) return text->size();
  if (const auto* const parts = std::get_if<TextParts>(&prompt)) {
    for (const std::string& part : *parts) bytes += part.size();
  }
  if (const auto* const chat = std::get_if<ChatPrompt>(&prompt)) {
    for (const ChatMessage& message : chat->messages) {
      for (const std::string& part : message.parts) bytes += part.size();
    }
    for (const ChatDocument& document : chat->documents) bytes += document.text.size();
  }
  return bytes;
}

std::string PromptParam(const ApiRequest& request, size_t index) {
  if (request.endpoint == Endpoint::kChat) return "messages";
  return request.prompts.size() == 1 ? "prompt" : absl::StrCat("prompt[", index, "]");
}

absl::Status TooLong(std::string_view param, size_t max_len, std::string_view rest) {
  return ParameterError(param,
                        absl::StrCat("this model's context is ", max_len,
                                     " tokens, prompt and answer together; ", AbslView(rest)),
                        "context_length_exceeded");
}

// The max_tokens that the worker gets, checked against the model's length.
absl::StatusOr<uint32_t> FitMaxTokens(const ApiRequest& request, std::string_view param,
                                      size_t prompt_tokens, size_t max_len) {
  if (prompt_tokens >= max_len) {
    return TooLong(param, max_len,
                   absl::StrCat("the prompt alone has ", prompt_tokens, ": shorten it"));
  }
  const size_t room = max_len - prompt_tokens;
  size_t wanted = request.endpoint == Endpoint::kChat ? room : kDefaultCompletionTokens;
  wanted = std::min(wanted, room);
  if (request.max_tokens) wanted = std::max(1u, *request.max_tokens);
  if (wanted > room) {
    return TooLong(
        param, max_len,
        absl::StrCat("the prompt has ", prompt_tokens, " and max_tokens asks for ", wanted,
                     ": shorten the prompt, or set max_tokens to at most ", room));
  }
  if (request.sampling.min_tokens() > wanted) {
    return ParameterError("min_tokens", absl::StrCat("'min_tokens' must be at most max_tokens, "
                                                     "which is ",
                                                     wanted, " here"));
  }
  return static_cast<uint32_t>(wanted);
}

// Drops tokens from the front, whole segments first: what is left of the segment that is cut stands
// at the prompt's start, and is its lead.
void KeepLast(size_t keep, SegmentedPrompt* prompt) {
  size_t drop = prompt->token_count() - std::min(prompt->token_count(), keep);
  auto first = prompt->segments.begin();
  while (drop >= first->size()) drop -= (first++)->size();
  first->erase(first->begin(), first->begin() + static_cast<ptrdiff_t>(drop));
  prompt->segments.erase(prompt->segments.begin(), first);
}

void Truncate(const ApiRequest& request, size_t max_len, SegmentedPrompt* prompt) {
  if (!request.truncate_prompt_tokens) return;
  size_t keep = *request.truncate_prompt_tokens;
  if (keep == 0) {
    const size_t answer = std::max(1u, request.max_tokens.value_or(kDefaultCompletionTokens));
    keep = answer < max_len ? max_len - answer : 1;
  }
  KeepLast(keep, prompt);
}

absl::Status CheckBiases(const v1::SamplingOptions& sampling, uint32_t vocab_size) {
  for (const auto& [id, bias] : sampling.logit_bias()) {
    if (id < vocab_size) continue;
    return ParameterError(
        "logit_bias",
        absl::StrCat("token id ", id, " in 'logit_bias' is not below the vocabulary's size, ",
                     vocab_size));
  }
  return absl::OkStatus();
}

void CopyOptions(const ApiRequest& request, v1::GenerateRequest* generate) {
  *generate->mutable_sampling() = request.sampling;
  *generate->mutable_blend() = request.blend;
  generate->mutable_stop_token_ids()->Add(request.stop_token_ids.begin(),
                                          request.stop_token_ids.end());
  generate->set_ignore_eos(request.ignore_eos);
  generate->set_cache_salt(request.cache_salt);
  generate->set_n(request.n);
  generate->set_priority(request.priority);
  if (!request.logprobs) return;
  generate->set_top_logprobs(*request.logprobs);
  if (request.echo) generate->set_prompt_logprobs(*request.logprobs);
}

// What an echo of these segments says.
std::string EchoOf(const Prompt& prompt, const SegmentedPrompt& segmented, bool whole,
                   const Tokenizer& tokenizer, bool skip_special) {
  const auto* const text = std::get_if<std::string>(&prompt);
  if (text != nullptr && whole && segmented.segments.size() == 1) return *text;
  return tokenizer.Decode(segmented.Ids(), skip_special);
}

}  // namespace

Preparer::Preparer(const ModelText* text, SegmenterOptions options)
    : text_(text), options_(std::move(options)), longest_token_(LongestToken(*text->tokenizer)) {}

absl::StatusOr<SegmentedPrompt> Preparer::Segment(const Prompt& prompt, const std::string& param,
                                                  const v1::GetModelResponse& model) const {
  if (const auto* const ids = std::get_if<std::vector<uint32_t>>(&prompt)) {
    for (const uint32_t id : *ids) {
      if (id < model.vocab_size()) continue;
      return ParameterError(
          param, absl::StrCat("token id ", id, " in '", param,
                              "' is not below the vocabulary's size, ", model.vocab_size()));
    }
    return SegmentedPrompt{.segments = {*ids}};
  }
  // Megabytes of text need not be tokenized to know that they do not fit.
  const size_t bytes = TextBytes(prompt);
  if (bytes / kMaxShrink / longest_token_ > model.max_len()) {
    return TooLong(param, model.max_len(),
                   absl::StrCat("the prompt alone has ", bytes, " bytes: shorten it"));
  }
  absl::StatusOr<SegmentedPrompt> segmented = SegmentedPrompt();
  if (const auto* const chat = std::get_if<ChatPrompt>(&prompt)) {
    segmented = SegmentChat(*text_, *chat, options_);
  } else if (const auto* const parts = std::get_if<TextParts>(&prompt)) {
    segmented = SegmentCompletion(*text_, *parts, options_);
  } else {
    segmented = SegmentCompletion(*text_, std::get<std::string>(prompt), options_);
  }
  if (!segmented.ok()) return SegmentingError(segmented.status(), param);
  return segmented;
}

absl::StatusOr<PreparedPrompt> Preparer::PrepareOne(const ApiRequest& request, const Prompt& prompt,
                                                    const std::string& param,
                                                    const v1::GetModelResponse& model) const {
  ASSIGN_OR_RETURN(SegmentedPrompt segmented, Segment(prompt, param, model));
  const size_t tokens = segmented.token_count();
  Truncate(request, model.max_len(), &segmented);
  ASSIGN_OR_RETURN(const uint32_t max_tokens,
                   FitMaxTokens(request, param, segmented.token_count(), model.max_len()));
  PreparedPrompt prepared;
  for (const std::vector<uint32_t>& ids : segmented.segments) {
    prepared.generate.add_segments()->mutable_token_ids()->Add(ids.begin(), ids.end());
  }
  prepared.generate.set_max_tokens(max_tokens);
  CopyOptions(request, &prepared.generate);
  if (request.echo) {
    prepared.echo = EchoOf(prompt, segmented, tokens == segmented.token_count(), *text_->tokenizer,
                           request.skip_special_tokens);
  }
  return prepared;
}

absl::StatusOr<std::vector<PreparedPrompt>> Preparer::Prepare(
    const ApiRequest& request, const v1::GetModelResponse& model) const {
  RETURN_IF_ERROR(CheckModel(request.model, model.name()));
  RETURN_IF_ERROR(CheckBiases(request.sampling, model.vocab_size()));
  std::vector<PreparedPrompt> prepared;
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    ASSIGN_OR_RETURN(PreparedPrompt one,
                     PrepareOne(request, request.prompts[i], PromptParam(request, i), model));
    prepared.push_back(std::move(one));
  }
  return prepared;
}

}  // namespace tessera::openai
