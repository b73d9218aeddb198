// Response bodies and stream events of the two completion endpoints.
#ifndef TESSERA_GATEWAY_OPENAI_RESPONSE_H_
#define TESSERA_GATEWAY_OPENAI_RESPONSE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "boost/json/object.hpp"
#include "gateway/openai/answer.h"
#include "gateway/openai/request.h"
#include "gateway/text/tokenizer.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

// One server-sent event: "data: ...\n\n".
std::string Event(std::string_view json);
// The event that ends every stream.
inline constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";

struct ResponseOptions {
  Endpoint endpoint = Endpoint::kCompletions;
  std::string request_id;
  std::string model;
  int64_t created = 0;  // seconds since 1970
  // Every chunk of a stream but the last has usage null; with continuous_usage, what was used so
  // far.
  bool include_usage = false;
  bool continuous_usage = false;
  bool logprobs = false;
  bool token_ids = false;
  // Where the recomputed rows are, as far as there is room for it.
  bool report_rows = false;
  // Spells tokens. Must outlive the builder.
  const Tokenizer* tokenizer = nullptr;
};

// One choice, or what a stream's chunk adds to it. Borrows everything.
struct ChoicePart {
  uint32_t index = 0;
  std::string_view text;
  std::span<const ScoredToken> tokens;
  // So many of them, the first ones, are the echoed prompt's.
  size_t echo_tokens = 0;
  // Where this is its end: the answer, for its reasons.
  const Answer* ended = nullptr;
  // Of its prompt, on the first part of a choice where token ids are asked for.
  const std::vector<uint32_t>* prompt_token_ids = nullptr;
  // On the first of its prompt's chunks: how the prompt's KV came about, for who asks for usage or
  // rows.
  const worker::v1::Started* prompt = nullptr;
};

// What a request has used: the prompts whose prefill has ended, in order, and the tokens of all
// answers. Borrows the prompts.
struct RequestUsage {
  std::vector<const worker::v1::Started*> prompts;
  uint64_t completion_tokens = 0;
};

// Builds everything that is sent for one request, with one id, model and time. Immutable.
class ResponseBuilder {
 public:
  explicit ResponseBuilder(ResponseOptions options);

  // The whole answer; every part is a whole choice, in order of their indices.
  std::string Whole(std::span<const ChoicePart> choices, const RequestUsage& usage) const;

  // Stream events, in this order: for every choice First (chat only) and then any number of Parts,
  // the last with its end; then Usage where it was asked for, and kDoneEvent. `usage` is what was
  // used so far.
  std::string First(const ChoicePart& choice, const RequestUsage& usage) const;
  std::string Part(const ChoicePart& choice, const RequestUsage& usage) const;
  std::string Usage(const RequestUsage& usage) const;

 private:
  bool chat() const { return options_.endpoint == Endpoint::kChat; }
  boost::json::object Head(std::string_view object) const;
  boost::json::object ChunkHead() const;
  // Logprobs, token ids and end of a choice.
  void AddRest(const ChoicePart& part, bool whole, boost::json::object* choice) const;
  std::string Chunk(const ChoicePart& part, boost::json::object body, boost::json::object choice,
                    const RequestUsage& usage) const;

  const ResponseOptions options_;
  const std::string id_;
};

// Of all prompts together.
worker::v1::PromptUsage SumUsage(const RequestUsage& usage);

// prompt_tokens, completion_tokens, total_tokens, and prompt_tokens_details.cached_tokens: tokens
// whose KV came from the cache and was not recomputed (exact + blended).
boost::json::object UsageObject(const RequestUsage& usage);

// Most runs of recomputed rows in one object, of all its segments together: it must fit into an
// event of a stream. The rest is left out.
inline constexpr size_t kMostRowRuns = 4096;

// How the prompts' KV came about: README.md of this folder's parent states every field. rows: with
// the runs of recomputed rows.
boost::json::object TesseraObject(const RequestUsage& usage, bool rows);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_RESPONSE_H_
