#include "gateway/openai/logprobs.h"

#include <string>
#include <utility>

#include "boost/json/array.hpp"
#include "boost/json/value.hpp"
#include "gateway/text/utf8.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

// JSON has no infinity; as others do it.
constexpr double kLeast = -9999;

double Finite(float logprob) { return logprob > kLeast ? logprob : kLeast; }

std::string Readable(const std::string& bytes) {
  Utf8Repair repair;
  std::string text;
  repair.Append(bytes, &text);
  repair.Finish(&text);
  return text;
}

json::object ChatEntry(const Tokenizer& tokenizer, uint32_t id, float logprob) {
  const std::string bytes = tokenizer.TokenBytes(id);
  json::array numbers;
  numbers.reserve(bytes.size());
  for (const char byte : bytes) numbers.push_back(static_cast<uint8_t>(byte));
  json::object entry;
  entry["token"] = Readable(bytes);
  entry["logprob"] = Finite(logprob);
  entry["bytes"] = std::move(numbers);
  return entry;
}

// By text: where two tokens have the same, the likelier one stands for both.
json::object TopByText(const Tokenizer& tokenizer, const ScoredToken& token) {
  json::object top;
  for (const TokenScore& each : token.top) {
    top.emplace(Readable(tokenizer.TokenBytes(each.id)), Finite(each.logprob));
  }
  top.emplace(Readable(tokenizer.TokenBytes(token.id)), Finite(*token.logprob));
  return top;
}

}  // namespace

json::object ChatLogprobs(const Tokenizer& tokenizer, std::span<const ScoredToken> tokens) {
  json::array content;
  content.reserve(tokens.size());
  for (const ScoredToken& token : tokens) {
    json::array top;
    for (const TokenScore& each : token.top) {
      top.push_back(ChatEntry(tokenizer, each.id, each.logprob));
    }
    json::object entry = ChatEntry(tokenizer, token.id, token.logprob.value_or(0));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  json::object logprobs;
  logprobs["content"] = std::move(content);
  return logprobs;
}

json::object CompletionLogprobs(const Tokenizer& tokenizer, std::span<const ScoredToken> tokens) {
  json::array texts;
  json::array token_logprobs;
  json::array top_logprobs;
  json::array offsets;
  for (const ScoredToken& token : tokens) {
    texts.emplace_back(Readable(tokenizer.TokenBytes(token.id)));
    offsets.emplace_back(token.offset);
    if (token.logprob) {
      token_logprobs.emplace_back(Finite(*token.logprob));
      top_logprobs.emplace_back(TopByText(tokenizer, token));
    } else {
      token_logprobs.emplace_back(nullptr);
      top_logprobs.emplace_back(nullptr);
    }
  }
  json::object logprobs;
  logprobs["tokens"] = std::move(texts);
  logprobs["token_logprobs"] = std::move(token_logprobs);
  logprobs["top_logprobs"] = std::move(top_logprobs);
  logprobs["text_offset"] = std::move(offsets);
  return logprobs;
}

}  // namespace tessera::openai
