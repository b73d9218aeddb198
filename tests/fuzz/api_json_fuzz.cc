// Arbitrary bytes as the body of a completion request (gateway/openai/request.h), for both
// endpoints.
//
// The input is a byte of headers, then the body. A request that is accepted keeps its promises; one
// that is refused gets an error that is JSON and says what to change.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "boost/json.hpp"
#include "gateway/openai/error.h"
#include "gateway/openai/request.h"
#include "gateway/text/utf8.h"
#include "glog/logging.h"

namespace tessera::fuzz {
namespace {

using openai::ApiRequest;
using openai::Endpoint;

constexpr char kKnownChunk[] = "chunk-1";

// One chunk, in a cache that now and then does not answer.
class OneChunk final : public openai::ChunkTexts {
 public:
  absl::StatusOr<std::string> TextOf(std::string_view id, std::string_view salt) override {
    if (id == kKnownChunk && salt.empty()) return std::string("The sky is blue.");
    if (id.empty()) return absl::InvalidArgumentError("no id of a chunk");
    if (id.size() % 2 == 0) return absl::UnavailableError("the cache does not answer");
    return absl::NotFoundError("no such chunk: send its text again");
  }
};

void CheckUtf8(std::string_view text) {
  CHECK_EQ(FindInvalidUtf8(text), std::string_view::npos) << "from JSON that is UTF-8";
}

void CheckPrompt(const openai::Prompt& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt)) CheckUtf8(*text);
  if (const auto* parts = std::get_if<openai::TextParts>(&prompt)) {
    for (const std::string& part : *parts) CheckUtf8(part);
  }
  const auto* chat = std::get_if<ChatPrompt>(&prompt);
  if (chat == nullptr) return;
  CHECK(!chat->messages.empty());
  for (const ChatMessage& message : chat->messages) {
    CheckUtf8(message.role);
    for (const std::string& part : message.parts) CheckUtf8(part);
  }
}

void CheckAccepted(const ApiRequest& request, const openai::ParseLimits& limits) {
  CHECK(!request.prompts.empty() && request.prompts.size() <= limits.max_prompts);
  CHECK(request.n >= 1 && request.n <= 128) << request.n;
  CHECK(request.sampling.temperature() >= 0 && request.sampling.temperature() <= 2);
  CHECK(request.sampling.top_p() >= 0 && request.sampling.top_p() <= 1);
  CHECK(request.logprobs.value_or(0) <= 20);
  CHECK(request.stop.size() <= 4);
  for (const std::string& stop : request.stop) CHECK(!stop.empty());
  for (const openai::Prompt& prompt : request.prompts) CheckPrompt(prompt);
}

void CheckRefused(const absl::Status& status) {
  const http::Response response = openai::ErrorResponse(status);
  CHECK(response.status >= 400 && response.status < 600) << response.status;
  // All that a body can be wrong in is the client's to change.
  CHECK(response.status < 500 || response.status == 503) << status;
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(response.body, error);
  CHECK(!error) << response.body;
  CHECK(!value.at("error").at("message").as_string().empty());
  CheckUtf8(response.body);
}

}  // namespace

void FuzzApiJson(const uint8_t* bytes, size_t size) {
  if (size == 0) return;
  http::Request request;
  request.method = "POST";
  request.body.assign(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  if ((bytes[0] & 1) != 0) request.headers.emplace_back("x-tessera-mode", "blend");
  if ((bytes[0] & 2) != 0) request.headers.emplace_back("x-tessera-recompute-ratio", "0.25");
  if ((bytes[0] & 4) != 0) request.headers.emplace_back("x-tessera-store", request.body);
  OneChunk chunks;
  const openai::ParseLimits limits;
  for (const Endpoint endpoint : {Endpoint::kCompletions, Endpoint::kChat}) {
    const auto parsed = openai::ParseRequest(endpoint, request, limits, &chunks);
    if (parsed.ok()) {
      CheckAccepted(*parsed, limits);
    } else {
      CheckRefused(parsed.status());
    }
  }
}

}  // namespace tessera::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  tessera::fuzz::FuzzApiJson(bytes, size);
  return 0;
}
