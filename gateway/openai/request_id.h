// Names of requests, for logs on every machine that a request meets.
#ifndef TESSERA_GATEWAY_OPENAI_REQUEST_ID_H_
#define TESSERA_GATEWAY_OPENAI_REQUEST_ID_H_

#include <string>
#include <string_view>

namespace tessera::openai {

// What the client sent as X-Request-Id, when that is 1 to 128 letters, digits and any of "-_.:/";
// otherwise 32 random hexadecimal digits. Thread-safe.
std::string RequestId(std::string_view sent);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_REQUEST_ID_H_
