// The parts of a request's target.
#ifndef TESSERA_GATEWAY_HTTP_TARGET_H_
#define TESSERA_GATEWAY_HTTP_TARGET_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera::http {

// The target without scheme, host, query and fragment, percent-decoded: "/v1/models/a%2Fb?x=1"
// gives "/v1/models/a/b". A broken escape stays as it is.
std::string PathOf(std::string_view target);

// The query's names and values, decoded as forms are: "?after=a%2Fb&q=x+y&z" gives after=a/b,
// q=x y, z= .
std::vector<std::pair<std::string, std::string>> QueryOf(std::string_view target);

}  // namespace tessera::http

#endif  // TESSERA_GATEWAY_HTTP_TARGET_H_
