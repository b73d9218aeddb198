// HTTP requests and responses as plain values; no HTTP library is seen here.
#ifndef TESSERA_GATEWAY_HTTP_MESSAGE_H_
#define TESSERA_GATEWAY_HTTP_MESSAGE_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera::http {

// Names are lower case in requests; in responses as they are sent.
using Headers = std::vector<std::pair<std::string, std::string>>;

// A whole request: the body has arrived and is within the server's limit.
struct Request {
  // Upper case as sent: "GET", "POST".
  std::string method;
  // Percent-decoded, without the query: "/v1/models".
  std::string path;
  // Decoded names and values in the order they came; a name without "=" has an empty value.
  std::vector<std::pair<std::string, std::string>> query;
  Headers headers;
  std::string body;
  // The client's address without its port: "192.0.2.7". A proxy's, if there is one between.
  std::string remote;

  // The first header of that lower-case name; empty when there is none.
  std::string_view Header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }

  // The first value of that name in the query; nothing when the query does not have it.
  std::optional<std::string_view> Query(std::string_view name) const {
    for (const auto& [key, value] : query) {
      if (key == name) return value;
    }
    return std::nullopt;
  }
};

// A whole response; the server adds Content-Length and Connection.
struct Response {
  int status = 200;
  std::string content_type = "application/json";
  Headers headers;
  std::string body;
};

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_MESSAGE_H_
