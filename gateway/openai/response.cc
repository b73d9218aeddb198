#include "gateway/openai/response.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/json/array.hpp"
#include "boost/json/serialize.hpp"
#include "gateway/openai/logprobs.h"
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

json::object SegmentObject(const v1::SegmentReport& report) {
  json::object segment;
  segment["tokens"] = report.tokens();
  segment["source"] = View(SourceName(report.source()));
  segment["tier"] = report.tier().empty() ? json::value(nullptr) : json::value(View(report.tier()));
  segment["cached_tokens"] = report.cached_tokens();
  segment["exact"] = report.exact();
  segment["recomputed_tokens"] = report.recomputed_tokens();
  return segment;
}

// Takes of *room as many runs as there are.
json::array RowRuns(const v1::SegmentReport& report, size_t* room) {
  json::array runs;
  for (int i = 0; i + 1 < report.recomputed_rows_size() && *room > 0; i += 2, --*room) {
    runs.push_back(json::array{report.recomputed_rows(i), report.recomputed_rows(i + 1)});
  }
  return runs;
}

json::value StopReason(const Answer& answer) {
  if (answer.stop_string()) return View(*answer.stop_string());
  if (answer.stop_token()) return *answer.stop_token();
  return nullptr;
}

json::array TokenIdArray(const std::vector<uint32_t>& ids) {
  return json::array(ids.begin(), ids.end());
}

json::array TokenIdArray(std::span<const ScoredToken> tokens) {
  json::array ids;
  ids.reserve(tokens.size());
  for (const ScoredToken& token : tokens) ids.push_back(token.id);
  return ids;
}

// Of an echo the prompt's tokens are no part of the answer's.
std::span<const ScoredToken> AnswerTokens(const ChoicePart& part) {
  return part.tokens.subspan(std::min(part.echo_tokens, part.tokens.size()));
}

}  // namespace

std::string Event(std::string_view json) { return absl::StrCat("data: ", AbslView(json), "\n\n"); }

v1::PromptUsage SumUsage(const RequestUsage& usage) {
  v1::PromptUsage sum;
  for (const v1::Started* const prompt : usage.prompts) {
    const v1::PromptUsage& each = prompt->usage();
    sum.set_exact_tokens(sum.exact_tokens() + each.exact_tokens());
    sum.set_blended_tokens(sum.blended_tokens() + each.blended_tokens());
    sum.set_recomputed_tokens(sum.recomputed_tokens() + each.recomputed_tokens());
    sum.set_computed_tokens(sum.computed_tokens() + each.computed_tokens());
  }
  return sum;
}

json::object UsageObject(const RequestUsage& usage) {
  const v1::PromptUsage sum = SumUsage(usage);
  const uint64_t prompt_tokens = PromptTokens(sum);
  json::object object;
  object["prompt_tokens"] = prompt_tokens;
  object["completion_tokens"] = usage.completion_tokens;
  object["total_tokens"] = prompt_tokens + usage.completion_tokens;
  object["prompt_tokens_details"] =
      json::object{{"cached_tokens", uint64_t{sum.exact_tokens()} + sum.blended_tokens()}};
  return object;
}

json::object TesseraObject(const RequestUsage& usage, bool rows) {
  const v1::PromptUsage sum = SumUsage(usage);
  json::object object;
  object["exact_tokens"] = sum.exact_tokens();
  object["blended_tokens"] = sum.blended_tokens();
  object["recomputed_tokens"] = sum.recomputed_tokens();
  object["computed_tokens"] = sum.computed_tokens();
  uint64_t queue_us = 0;
  uint64_t prefill_us = 0;
  uint64_t full_us = 0;
  size_t room = kMostRowRuns;
  json::array segments;
  for (size_t i = 0; i < usage.prompts.size(); ++i) {
    const v1::Started& prompt = *usage.prompts[i];
    queue_us = std::max<uint64_t>(queue_us, prompt.queue_us());
    prefill_us = std::max<uint64_t>(prefill_us, prompt.prefill_us());
    full_us = std::max<uint64_t>(full_us, prompt.full_prefill_us());
    for (const v1::SegmentReport& report : prompt.segments()) {
      json::object segment = SegmentObject(report);
      if (rows) segment["recomputed_rows"] = RowRuns(report, &room);
      if (usage.prompts.size() > 1) segment["prompt"] = i;
      segments.push_back(std::move(segment));
    }
  }
  const bool any = !usage.prompts.empty();
  object["policy"] = View(any ? std::string_view(usage.prompts[0]->policy()) : "");
  object["correction"] = any && usage.prompts[0]->correction();
  object["queue_ms"] = static_cast<double>(queue_us) / 1000.0;
  object["prefill_ms"] = static_cast<double>(prefill_us) / 1000.0;
  object["full_prefill_ms"] = nullptr;
  if (full_us > 0) object["full_prefill_ms"] = static_cast<double>(full_us) / 1000.0;
  object["segments"] = std::move(segments);
  return object;
}

ResponseBuilder::ResponseBuilder(ResponseOptions options)
    : options_(std::move(options)),
      id_(absl::StrCat(chat() ? "chatcmpl-" : "cmpl-", options_.request_id)) {}

json::object ResponseBuilder::Head(std::string_view object) const {
  json::object head;
  head["id"] = id_;
  head["object"] = View(object);
  head["created"] = options_.created;
  head["model"] = options_.model;
  return head;
}

json::object ResponseBuilder::ChunkHead() const {
  return Head(chat() ? "chat.completion.chunk" : "text_completion");
}

void ResponseBuilder::AddRest(const ChoicePart& part, bool whole, json::object* choice) const {
  json::value logprobs = nullptr;
  if (options_.logprobs && (whole || !part.tokens.empty())) {
    logprobs = chat() ? ChatLogprobs(*options_.tokenizer, part.tokens)
                      : CompletionLogprobs(*options_.tokenizer, part.tokens);
  }
  (*choice)["logprobs"] = std::move(logprobs);
  (*choice)["finish_reason"] = nullptr;
  if (part.ended != nullptr) {
    (*choice)["finish_reason"] = View(part.ended->finish_reason());
    (*choice)["stop_reason"] = StopReason(*part.ended);
  }
  if (!options_.token_ids) return;
  (*choice)["token_ids"] = TokenIdArray(AnswerTokens(part));
  // A chat has one prompt, and says so once.
  if (!chat() && part.prompt_token_ids != nullptr) {
    (*choice)["prompt_token_ids"] = TokenIdArray(*part.prompt_token_ids);
  }
}

std::string ResponseBuilder::Whole(std::span<const ChoicePart> parts,
                                   const RequestUsage& usage) const {
  json::array choices;
  json::object body = Head(chat() ? "chat.completion" : "text_completion");
  for (const ChoicePart& part : parts) {
    json::object choice;
    choice["index"] = part.index;
    if (chat()) {
      choice["message"] = json::object{{"role", "assistant"}, {"content", View(part.text)}};
    } else {
      choice["text"] = View(part.text);
    }
    AddRest(part, /*whole=*/true, &choice);
    choices.push_back(std::move(choice));
    if (chat() && part.prompt_token_ids != nullptr) {
      body["prompt_token_ids"] = TokenIdArray(*part.prompt_token_ids);
    }
  }
  body["choices"] = std::move(choices);
  body["usage"] = UsageObject(usage);
  body["tessera"] = TesseraObject(usage, options_.report_rows);
  return json::serialize(body);
}

std::string ResponseBuilder::Chunk(const ChoicePart& part, json::object body, json::object choice,
                                   const RequestUsage& usage) const {
  body["choices"] = json::array{std::move(choice)};
  if (part.prompt != nullptr && (options_.include_usage || options_.report_rows)) {
    body["tessera"] = TesseraObject({.prompts = {part.prompt}}, options_.report_rows);
  }
  if (options_.continuous_usage) {
    body["usage"] = UsageObject(usage);
  } else if (options_.include_usage) {
    body["usage"] = nullptr;
  }
  return Event(json::serialize(body));
}

std::string ResponseBuilder::First(const ChoicePart& part, const RequestUsage& usage) const {
  json::object choice;
  choice["index"] = part.index;
  choice["delta"] = json::object{{"role", "assistant"}, {"content", ""}};
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = nullptr;
  json::object body = ChunkHead();
  if (part.prompt_token_ids != nullptr) {
    body["prompt_token_ids"] = TokenIdArray(*part.prompt_token_ids);
  }
  return Chunk(part, std::move(body), std::move(choice), usage);
}

std::string ResponseBuilder::Part(const ChoicePart& part, const RequestUsage& usage) const {
  json::object choice;
  choice["index"] = part.index;
  if (chat()) {
    json::object delta;
    if (!part.text.empty()) delta["content"] = View(part.text);
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = View(part.text);
  }
  AddRest(part, /*whole=*/false, &choice);
  return Chunk(part, ChunkHead(), std::move(choice), usage);
}

std::string ResponseBuilder::Usage(const RequestUsage& usage) const {
  json::object body = ChunkHead();
  body["choices"] = json::array{};
  body["usage"] = UsageObject(usage);
  body["tessera"] = TesseraObject(usage, options_.report_rows);
  return Event(json::serialize(body));
}

}  // namespace tessera::openai
