#include "gateway/openai/error.h"

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "boost/json/serialize.hpp"
#include "gateway/openai/views.h"
#include "gateway/text/utf8.h"

namespace tessera::openai {
namespace {

namespace json = boost::json;

constexpr std::string_view kParam = "tessera.openai.param";
constexpr std::string_view kCode = "tessera.openai.code";
constexpr std::string_view kRetryAfterSeconds = "1";
constexpr size_t kMaxTextBytes = 1000;

std::string Payload(const absl::Status& status, std::string_view name) {
  const absl::optional<absl::Cord> payload = status.GetPayload(AbslView(name));
  return payload ? std::string(*payload) : std::string();
}

json::value OrNull(std::string_view text) {
  return text.empty() ? json::value(nullptr) : json::value(json::string_view(text));
}

// A client's own words come back in messages, and it may have sent megabytes of them.
std::string_view Shortened(std::string_view text) {
  text = text.substr(0, kMaxTextBytes);
  return text.substr(0, FindInvalidUtf8(text));
}

// gRPC's own words for a worker that is down, as opposed to the worker's.
bool NamesAnAddress(const absl::Status& status) {
  if (!absl::IsUnavailable(status)) return false;
  for (const char* const scheme : {"ipv4:", "ipv6:", "unix:", "dns:", "addresses"}) {
    if (absl::StrContains(status.message(), scheme)) return true;
  }
  return false;
}

std::string_view TypeOf(int http_status) {
  switch (http_status) {
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable_error";
    case 504:
      return "timeout_error";
    default:
      return http_status < 500 ? "invalid_request_error" : "server_error";
  }
}

}  // namespace

absl::Status WithParameter(absl::Status status, std::string_view param, std::string_view code) {
  if (!param.empty() && Payload(status, kParam).empty()) {
    status.SetPayload(AbslView(kParam), absl::Cord(AbslView(param)));
  }
  if (!code.empty() && Payload(status, kCode).empty()) {
    status.SetPayload(AbslView(kCode), absl::Cord(AbslView(code)));
  }
  return status;
}

absl::Status ParameterError(std::string_view param, std::string_view message,
                            std::string_view code) {
  return WithParameter(absl::InvalidArgumentError(AbslView(message)), param, code);
}

absl::Status ModelNotFound(std::string_view asked, std::string_view served) {
  return WithParameter(absl::NotFoundError(absl::StrCat(
                           "the model '", AbslView(asked),
                           "' does not exist here; this server serves '", AbslView(served), "'")),
                       "model", "model_not_found");
}

absl::Status CheckModel(std::string_view asked, std::string_view served) {
  if (asked.empty() || asked == served) return absl::OkStatus();
  return ModelNotFound(asked, served);
}

int HttpStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

json::object ErrorObject(int http_status, std::string_view message, std::string_view param,
                         std::string_view code) {
  json::object error;
  error["message"] = json::string_view(Shortened(message));
  error["type"] = json::string_view(TypeOf(http_status));
  error["param"] = OrNull(Shortened(param));
  error["code"] = OrNull(code);
  json::object body;
  body["error"] = std::move(error);
  return body;
}

json::object ErrorObject(const absl::Status& status) {
  const std::string_view message = NamesAnAddress(status)
                                       ? "the worker cannot be reached: try again later"
                                       : StdView(status.message());
  return ErrorObject(HttpStatus(status), message, Payload(status, kParam), Payload(status, kCode));
}

http::Response ErrorResponse(const absl::Status& status) {
  http::Response response;
  response.status = HttpStatus(status);
  response.body = json::serialize(ErrorObject(status));
  if (response.status == 429 || response.status == 503) {
    response.headers.emplace_back("Retry-After", kRetryAfterSeconds);
  }
  return response;
}

}  // namespace tessera::openai
