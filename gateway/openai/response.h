// Response bodies and stream events of the two completion endpoints.
#ifndef TESSERA_GATEWAY_OPENAI_RESPONSE_H_
#define TESSERA_GATEWAY_OPENAI_RESPONSE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "boost/json/object.hpp"
#include "gateway/openai/request.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

// One server-sent event: "data: ...\n\n".
std::string Event(std::string_view json);
// The event that ends every stream.
inline constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";

// Builds everything that is sent for one answer, with one id, model and time. Immutable.
class ResponseBuilder {
 public:
  // `created` in seconds since 1970. With `include_usage` every chunk but the last has usage null.
  ResponseBuilder(Endpoint endpoint, std::string_view request_id, std::string model,
                  int64_t created, bool include_usage);

  // The whole answer. `finish_reason` is "stop" or "length".
  std::string Whole(std::string_view text, std::string_view finish_reason,
                    const worker::v1::Started& started, uint32_t completion_tokens) const;

  // Stream events, in this order: First (chat only; empty for completions), Text for every piece of
  // text, Last with what remained and the reason, Usage where it was asked for, kDoneEvent.
  std::string First() const;
  std::string Text(std::string_view text) const;
  std::string Last(std::string_view text, std::string_view finish_reason) const;
  std::string Usage(const worker::v1::Started& started, uint32_t completion_tokens) const;

 private:
  boost::json::object Head(std::string_view object) const;
  std::string Chunk(boost::json::object choice) const;

  const Endpoint endpoint_;
  const std::string id_;
  const std::string model_;
  const int64_t created_;
  const bool include_usage_;
};

// prompt_tokens, completion_tokens, total_tokens, and prompt_tokens_details.cached_tokens: tokens
// whose KV came from the cache and was not recomputed (exact + blended).
boost::json::object UsageObject(const worker::v1::Started& started, uint32_t completion_tokens);

// How the prompt's KV came about: README.md of this folder's parent states every field.
boost::json::object TesseraObject(const worker::v1::Started& started);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_RESPONSE_H_
