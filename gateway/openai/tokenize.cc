#include "gateway/openai/tokenize.h"

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "boost/json/array.hpp"
#include "gateway/openai/chunk_resolver.h"
#include "gateway/openai/controls.h"
#include "gateway/openai/error.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/parse_prompt.h"
#include "gateway/openai/views.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

// More holds up the requests that wait for the same threads.
constexpr size_t kMaxBodyBytes = size_t{4} << 20;

absl::Status CheckSize(const http::Request& request) {
  if (request.body.size() <= kMaxBodyBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the body has ", request.body.size(),
                                                 " bytes, and at most ", kMaxBodyBytes,
                                                 " are taken here: send less at a time"));
}

struct SegmentPrompt {
  const TokenizeContext& context;

  absl::StatusOr<SegmentedPrompt> operator()(const std::string& text) const {
    return SegmentCompletion(*context.text, text, context.segmenter);
  }
  absl::StatusOr<SegmentedPrompt> operator()(const TextParts& parts) const {
    return SegmentCompletion(*context.text, parts, context.segmenter);
  }
  absl::StatusOr<SegmentedPrompt> operator()(const ChatPrompt& chat) const {
    return SegmentChat(*context.text, chat, context.segmenter);
  }
  absl::StatusOr<SegmentedPrompt> operator()(const std::vector<uint32_t>& ids) const {
    return SegmentedPrompt{.segments = {ids}};
  }
};

absl::StatusOr<Prompt> ParsePrompt(const json::object& body, ChunkResolver& chunks) {
  const bool chat = body.if_contains("messages") != nullptr;
  if (chat && body.if_contains("prompt") != nullptr) {
    return ParameterError("prompt", "'prompt' and 'messages' are two ways to say it: send one");
  }
  if (chat) return ParseChatPrompt(body, chunks);
  ASSIGN_OR_RETURN(std::vector<Prompt> prompts, ParseCompletionPrompts(body, 1, chunks));
  return std::move(prompts.front());
}

}  // namespace

absl::StatusOr<json::object> Tokenize(const TokenizeContext& context,
                                      const worker::v1::GetModelResponse& model,
                                      const http::Request& request) {
  RETURN_IF_ERROR(CheckSize(request));
  ASSIGN_OR_RETURN(const json::object body, ParseObject(request.body));
  Fields fields(body);
  std::string asked;
  std::string salt;
  bool add_special_tokens = true;
  bool return_strings = false;
  RETURN_IF_ERROR(ReadSaltHeader(request, &salt));
  fields.Read("model", &asked);
  fields.Read("cache_salt", &salt);
  fields.Read("add_special_tokens", &add_special_tokens);
  fields.Read("return_token_strs", &return_strings);
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(CheckModel(asked, model.name()));
  ChunkResolver chunks(context.chunk_texts, salt);
  ASSIGN_OR_RETURN(const Prompt prompt, ParsePrompt(body, chunks));
  const bool chat = std::holds_alternative<ChatPrompt>(prompt);
  const absl::StatusOr<SegmentedPrompt> segmented = std::visit(SegmentPrompt{context}, prompt);
  if (!segmented.ok()) {
    // Whatever it is called, it is about what the client sent.
    return ParameterError(chat ? "messages" : "prompt", StdView(segmented.status().message()));
  }
  std::vector<uint32_t> ids = segmented->Ids();
  const std::optional<uint32_t> bos = context.text->completion_bos;
  const bool text = !chat && !std::holds_alternative<std::vector<uint32_t>>(prompt);
  if (text && !add_special_tokens && bos && !ids.empty() && ids.front() == *bos) {
    ids.erase(ids.begin());
  }
  json::object answer;
  answer["count"] = ids.size();
  answer["max_model_len"] = model.max_len();
  answer["tokens"] = json::array(ids.begin(), ids.end());
  answer["token_strs"] = nullptr;
  if (return_strings) {
    json::array strings;
    for (const uint32_t id : ids) {
      strings.emplace_back(context.text->tokenizer->Decode({&id, 1}, /*skip_special=*/false));
    }
    answer["token_strs"] = std::move(strings);
  }
  return answer;
}

absl::StatusOr<json::object> Detokenize(const TokenizeContext& context,
                                        const worker::v1::GetModelResponse& model,
                                        const http::Request& request) {
  RETURN_IF_ERROR(CheckSize(request));
  ASSIGN_OR_RETURN(const json::object body, ParseObject(request.body));
  Fields fields(body);
  std::string asked;
  fields.Read("model", &asked);
  const json::value* const tokens = fields.Find("tokens");
  const std::optional<std::vector<uint32_t>> ids =
      tokens != nullptr && tokens->is_array() ? TokenIds(tokens->get_array()) : std::nullopt;
  if (!ids) fields.Fail("tokens", "must be an array of token ids");
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(CheckModel(asked, model.name()));
  for (const uint32_t id : *ids) {
    if (id < context.text->tokenizer->vocab_size()) continue;
    return ParameterError(
        "tokens", absl::StrCat("token id ", id, " in 'tokens' is not below the vocabulary's",
                               " size, ", context.text->tokenizer->vocab_size()));
  }
  json::object answer;
  answer["prompt"] = context.text->tokenizer->Decode(*ids, /*skip_special=*/false);
  return answer;
}

}  // namespace tessera::openai
