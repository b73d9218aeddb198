// Which web pages may call this server: the CORS protocol of the Fetch standard.
#ifndef TESSERA_GATEWAY_HTTP_CORS_H_
#define TESSERA_GATEWAY_HTTP_CORS_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "gateway/http/message.h"

namespace tessera::http {

// Immutable. Keys travel in a header that a page must set itself, never in cookies, so credentials
// in the standard's sense are not allowed, and "*" is safe.
class Cors {
 public:
  // Origins as browsers send them, or "*" for all; empty switches CORS off.
  explicit Cors(std::vector<std::string> origins);

  // InvalidArgument names an origin that no browser can send, such as one with a path.
  static absl::Status Check(const std::vector<std::string>& origins);

  // What every response gets whose request came from `origin` (empty: from none, or unknown).
  Headers ResponseHeaders(std::string_view origin) const;

  // The answer to a browser's question whether a page may send a request; nothing when `request` is
  // no such question, or CORS is off. Without ResponseHeaders.
  std::optional<Response> Preflight(const Request& request) const;

 private:
  bool Allows(std::string_view origin) const;

  const std::vector<std::string> origins_;
  const bool any_;
};

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_CORS_H_
