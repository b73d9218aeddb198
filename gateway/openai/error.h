// Errors in OpenAI's form, carried as absl::Status until they reach the client.
//
// A status has a message that says what to change, and may carry a parameter's name and an OpenAI
// code as payloads. HTTP status by code: INVALID_ARGUMENT, OUT_OF_RANGE and FAILED_PRECONDITION
// 400, UNAUTHENTICATED 401, NOT_FOUND 404, RESOURCE_EXHAUSTED 429 (with Retry-After), UNAVAILABLE
// 503, DEADLINE_EXCEEDED 504, CANCELLED 499, all others 500.
#ifndef TESSERA_GATEWAY_OPENAI_ERROR_H_
#define TESSERA_GATEWAY_OPENAI_ERROR_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "boost/json/object.hpp"
#include "gateway/http/message.h"

namespace tessera::openai {

// INVALID_ARGUMENT about one parameter; `code` may be empty.
absl::Status ParameterError(std::string_view param, std::string_view message,
                            std::string_view code = {});

// The same status, with these where it has none yet; empty ones add nothing.
absl::Status WithParameter(absl::Status status, std::string_view param, std::string_view code = {});

// NOT_FOUND with the code model_not_found.
absl::Status ModelNotFound(std::string_view asked, std::string_view served);
// The same, unless it is the served one or none is asked for.
absl::Status CheckModel(std::string_view asked, std::string_view served);

int HttpStatus(const absl::Status& status);

// {"error": {"message", "type", "param", "code"}}. Message and param are cut to a thousand bytes
// and are UTF-8, whatever a client or a worker put into them. What gRPC says of a connection that
// failed is replaced: it names addresses, which are none of a client's business.
boost::json::object ErrorObject(int http_status, std::string_view message, std::string_view param,
                                std::string_view code);
boost::json::object ErrorObject(const absl::Status& status);

// The whole response, for a status that is not OK.
http::Response ErrorResponse(const absl::Status& status);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_ERROR_H_
