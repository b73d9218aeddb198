// Requests parsed from a body, for tests of what is in it.
#ifndef TESSERA_TESTS_GATEWAY_OPENAI_PARSE_REQUEST_H_
#define TESSERA_TESTS_GATEWAY_OPENAI_PARSE_REQUEST_H_

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "boost/json/object.hpp"
#include "gateway/openai/error.h"
#include "gateway/openai/request.h"
#include "gtest/gtest.h"

namespace tessera::openai {

// Chunk "chunk-x" has the text "text of x" under the salts "" and "tenant"; counts what it is
// asked.
class FixedChunkTexts final : public ChunkTexts {
 public:
  absl::StatusOr<std::string> TextOf(std::string_view id, std::string_view salt) override {
    ++asked_[std::string(id)];
    if (id == "chunk-huge") return std::string(40 << 20, 'x');
    if (!id.starts_with("chunk-")) return absl::InvalidArgumentError("that is no chunk's id");
    if (id == "chunk-gone" || (!salt.empty() && salt != "tenant")) {
      return absl::NotFoundError("no such chunk: send its text again");
    }
    if (id == "chunk-away") return absl::UnavailableError("the cache does not answer");
    return "text of " + std::string(id.substr(6));
  }

  const std::map<std::string, int>& asked() const { return asked_; }

 private:
  std::map<std::string, int> asked_;
};

inline absl::StatusOr<ApiRequest> TryParse(Endpoint endpoint, const std::string& body,
                                           http::Headers headers = {},
                                           ChunkTexts* chunk_texts = nullptr) {
  http::Request request;
  request.headers = std::move(headers);
  request.body = body;
  return ParseRequest(endpoint, request, {.max_prompts = 16}, chunk_texts);
}

inline ApiRequest Parse(Endpoint endpoint, const std::string& body, http::Headers headers = {},
                        ChunkTexts* chunk_texts = nullptr) {
  absl::StatusOr<ApiRequest> request = TryParse(endpoint, body, std::move(headers), chunk_texts);
  EXPECT_TRUE(request.ok()) << body << ": " << request.status();
  if (request.ok()) return *std::move(request);
  ApiRequest none;
  none.prompts.emplace_back();
  return none;
}

inline ApiRequest ParseCompletion(const std::string& fields) {
  return Parse(Endpoint::kCompletions, R"({"prompt": "hi", )" + fields + "}");
}

inline ApiRequest ParseChat(const std::string& fields) {
  return Parse(Endpoint::kChat,
               R"({"messages": [{"role": "user", "content": "hi"}], )" + fields + "}");
}

// The parameter that an error names; the test fails unless that is an error with that status.
inline std::string RefusedParam(Endpoint endpoint, const std::string& body,
                                http::Headers headers = {}, ChunkTexts* chunk_texts = nullptr,
                                int http_status = 400) {
  const auto request = TryParse(endpoint, body, std::move(headers), chunk_texts);
  EXPECT_FALSE(request.ok()) << body;
  if (request.ok()) return "accepted";
  EXPECT_EQ(HttpStatus(request.status()), http_status) << request.status();
  EXPECT_FALSE(request.status().message().empty());
  const auto error = ErrorObject(request.status()).at("error").as_object();
  return error.at("param").is_null() ? "null" : std::string(error.at("param").as_string());
}

inline std::string RefusedCompletion(const std::string& fields) {
  return RefusedParam(Endpoint::kCompletions, R"({"prompt": "hi", )" + fields + "}");
}

inline std::string RefusedChat(const std::string& fields) {
  return RefusedParam(Endpoint::kChat,
                      R"({"messages": [{"role": "user", "content": "hi"}], )" + fields + "}");
}

}  // namespace tessera::openai

#endif  // TESSERA_TESTS_GATEWAY_OPENAI_PARSE_REQUEST_H_
