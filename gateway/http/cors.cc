#include "gateway/http/cors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::http {
namespace {

constexpr std::string_view kAny = "*";
constexpr std::string_view kMethods = "GET, POST, DELETE, OPTIONS";
constexpr std::string_view kDefaultHeaders = "authorization, content-type, x-request-id";
constexpr std::string_view kExposed = "X-Request-Id, Retry-After";
// Browsers ask again after this many seconds; some allow no more than two hours.
constexpr std::string_view kMaxAge = "7200";
constexpr size_t kMaxAskedBytes = 1024;

// A list of header names, such as the official clients' x-stainless-*, and nothing that could be
// something else.
bool IsHeaderList(std::string_view text) {
  return !text.empty() && text.size() <= kMaxAskedBytes &&
         text.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_., ") ==
             std::string_view::npos;
}

bool IsOrigin(std::string_view text) {
  if (text == kAny || text == "null") return true;
  const size_t scheme = text.find("://");
  if (scheme == std::string_view::npos || scheme == 0) return false;
  const std::string_view host = text.substr(scheme + 3);
  return !host.empty() && host.find_first_of("/?# *,") == std::string_view::npos;
}

}  // namespace

Cors::Cors(std::vector<std::string> origins)
    : origins_(std::move(origins)),
      any_(std::find(origins_.begin(), origins_.end(), kAny) != origins_.end()) {}

absl::Status Cors::Check(const std::vector<std::string>& origins) {
  for (const std::string& origin : origins) {
    if (IsOrigin(origin)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("\"", origin, "\" is not an origin: write it as browsers do, scheme://host ",
                     "or scheme://host:port and nothing behind it, or * for all"));
  }
  return absl::OkStatus();
}

bool Cors::Allows(std::string_view origin) const {
  return any_ || std::find(origins_.begin(), origins_.end(), origin) != origins_.end();
}

Headers Cors::ResponseHeaders(std::string_view origin) const {
  Headers headers;
  if (origins_.empty()) return headers;
  // Not for "*": the response is the same for all. Otherwise also for origins that are refused, or
  // a cache could hand this response to one that is not.
  if (!any_) headers.emplace_back("Vary", "Origin");
  if (!Allows(origin)) return headers;
  headers.emplace_back("Access-Control-Allow-Origin", any_ ? kAny : origin);
  headers.emplace_back("Access-Control-Expose-Headers", kExposed);
  return headers;
}

std::optional<Response> Cors::Preflight(const Request& request) const {
  if (origins_.empty() || request.method != "OPTIONS" || request.Header("origin").empty() ||
      request.Header("access-control-request-method").empty()) {
    return std::nullopt;
  }
  Response response{.status = 204, .content_type = ""};
  // An origin that is not allowed learns that from the absence of Access-Control-Allow-Origin.
  if (!Allows(request.Header("origin"))) return response;
  const std::string_view asked = request.Header("access-control-request-headers");
  response.headers.emplace_back("Access-Control-Allow-Methods", kMethods);
  response.headers.emplace_back("Access-Control-Allow-Headers",
                                IsHeaderList(asked) ? asked : kDefaultHeaders);
  response.headers.emplace_back("Access-Control-Max-Age", kMaxAge);
  return response;
}

}  // namespace tessera::http
