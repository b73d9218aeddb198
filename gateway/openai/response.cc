#include "gateway/openai/response.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/json/array.hpp"
#include "boost/json/serialize.hpp"
#include "gateway/openai/views.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;
namespace v1 = worker::v1;

json::string_view View(std::string_view text) { return {text.data(), text.size()}; }

uint64_t PromptTokens(const v1::PromptUsage& usage) {
  return uint64_t{usage.exact_tokens()} + usage.blended_tokens() + usage.recomputed_tokens() +
         usage.computed_tokens();
}

std::string_view SourceName(v1::SegmentReport::Source source) {
  switch (source) {
    case v1::SegmentReport::CACHE:
      return "cache";
    case v1::SegmentReport::PARTIAL:
      return "partial";
    default:
      return "computed";
  }
}

}  // namespace

std::string Event(std::string_view json) { return absl::StrCat("data: ", AbslView(json), "\n\n"); }

json::object UsageObject(const v1::Started& started, uint32_t completion_tokens) {
  const v1::PromptUsage& usage = started.usage();
  const uint64_t prompt_tokens = PromptTokens(usage);
  json::object object;
  object["prompt_tokens"] = prompt_tokens;
  object["completion_tokens"] = completion_tokens;
  object["total_tokens"] = prompt_tokens + completion_tokens;
  object["prompt_tokens_details"] =
      json::object{{"cached_tokens", uint64_t{usage.exact_tokens()} + usage.blended_tokens()}};
  return object;
}

json::object TesseraObject(const v1::Started& started) {
  const v1::PromptUsage& usage = started.usage();
  json::object object;
  object["exact_tokens"] = usage.exact_tokens();
  object["blended_tokens"] = usage.blended_tokens();
  object["recomputed_tokens"] = usage.recomputed_tokens();
  object["computed_tokens"] = usage.computed_tokens();
  object["policy"] = started.policy();
  object["correction"] = started.correction();
  object["queue_ms"] = static_cast<double>(started.queue_us()) / 1000.0;
  object["prefill_ms"] = static_cast<double>(started.prefill_us()) / 1000.0;
  json::array segments;
  for (const v1::SegmentReport& report : started.segments()) {
    json::object segment;
    segment["tokens"] = report.tokens();
    segment["source"] = View(SourceName(report.source()));
    segment["tier"] =
        report.tier().empty() ? json::value(nullptr) : json::value(View(report.tier()));
    segment["recomputed_tokens"] = report.recomputed_tokens();
    segments.push_back(std::move(segment));
  }
  object["segments"] = std::move(segments);
  return object;
}

ResponseBuilder::ResponseBuilder(Endpoint endpoint, std::string_view request_id, std::string model,
                                 int64_t created, bool include_usage)
    : endpoint_(endpoint),
      id_(absl::StrCat(endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-", AbslView(request_id))),
      model_(std::move(model)),
      created_(created),
      include_usage_(include_usage) {}

json::object ResponseBuilder::Head(std::string_view object) const {
  json::object head;
  head["id"] = id_;
  head["object"] = View(object);
  head["created"] = created_;
  head["model"] = model_;
  return head;
}

std::string ResponseBuilder::Whole(std::string_view text, std::string_view finish_reason,
                                   const v1::Started& started, uint32_t completion_tokens) const {
  const bool chat = endpoint_ == Endpoint::kChat;
  json::object choice;
  choice["index"] = 0;
  if (chat) {
    choice["message"] = json::object{{"role", "assistant"}, {"content", View(text)}};
  } else {
    choice["text"] = View(text);
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = View(finish_reason);
  json::object body = Head(chat ? "chat.completion" : "text_completion");
  body["choices"] = json::array{std::move(choice)};
  body["usage"] = UsageObject(started, completion_tokens);
  body["tessera"] = TesseraObject(started);
  return json::serialize(body);
}

std::string ResponseBuilder::Chunk(json::object choice) const {
  json::object body =
      Head(endpoint_ == Endpoint::kChat ? "chat.completion.chunk" : "text_completion");
  body["choices"] = json::array{std::move(choice)};
  if (include_usage_) body["usage"] = nullptr;
  return Event(json::serialize(body));
}

std::string ResponseBuilder::First() const {
  if (endpoint_ != Endpoint::kChat) return {};
  json::object choice;
  choice["index"] = 0;
  choice["delta"] = json::object{{"role", "assistant"}, {"content", ""}};
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = nullptr;
  return Chunk(std::move(choice));
}

std::string ResponseBuilder::Text(std::string_view text) const {
  json::object choice;
  choice["index"] = 0;
  if (endpoint_ == Endpoint::kChat) {
    choice["delta"] = json::object{{"content", View(text)}};
  } else {
    choice["text"] = View(text);
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = nullptr;
  return Chunk(std::move(choice));
}

std::string ResponseBuilder::Last(std::string_view text, std::string_view finish_reason) const {
  json::object choice;
  choice["index"] = 0;
  if (endpoint_ == Endpoint::kChat) {
    json::object delta;
    if (!text.empty()) delta["content"] = View(text);
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = View(text);
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = View(finish_reason);
  return Chunk(std::move(choice));
}

std::string ResponseBuilder::Usage(const v1::Started& started, uint32_t completion_tokens) const {
  json::object body =
      Head(endpoint_ == Endpoint::kChat ? "chat.completion.chunk" : "text_completion");
  body["choices"] = json::array{};
  body["usage"] = UsageObject(started, completion_tokens);
  body["tessera"] = TesseraObject(started);
  return Event(json::serialize(body));
}

}  // namespace tessera::openai
