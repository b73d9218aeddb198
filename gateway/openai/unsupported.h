// Parameters that are known and not implemented.
#ifndef TESSERA_GATEWAY_OPENAI_UNSUPPORTED_H_
#define TESSERA_GATEWAY_OPENAI_UNSUPPORTED_H_

#include "absl/status/status.h"
#include "boost/json/object.hpp"

namespace tessera::openai {

// OK when every parameter that is not implemented is absent, null, or set to what happens anyway.
// Otherwise INVALID_ARGUMENT that names it: silently ignoring it would change the answer's meaning.
// `chat` tells the two endpoints apart: each has parameters of its own.
absl::Status CheckUnsupported(const boost::json::object& body, bool chat);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_UNSUPPORTED_H_
