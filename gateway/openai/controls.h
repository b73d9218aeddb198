// What a client asks of the cache: the object `tessera` of a body, and headers for clients that
// cannot add fields to one.
#ifndef TESSERA_GATEWAY_OPENAI_CONTROLS_H_
#define TESSERA_GATEWAY_OPENAI_CONTROLS_H_

#include <string>

#include "absl/status/status.h"
#include "boost/json/object.hpp"
#include "gateway/http/message.h"
#include "proto/worker.pb.h"

namespace tessera::openai {

// Reads X-Tessera-Mode, -Policy, -Recompute-Ratio, -Correction and -Store, then mode, policy,
// recompute_ratio, correction and store of `object` (null: the body has none), which win.
// Errors: INVALID_ARGUMENT naming the header or the field, for a bad value (of a header even where
// a field overrides it) and for an unknown name in `object`: it is ours, so that is a mistake and
// not another's feature.
absl::Status ReadControls(const http::Request& request, const boost::json::object* object,
                          worker::v1::BlendOptions* blend);

// X-Tessera-Cache-Salt, for requests whose body has no cache_salt. Leaves *salt as it is where
// there is none. Errors: INVALID_ARGUMENT for a salt that is not UTF-8.
absl::Status ReadSaltHeader(const http::Request& request, std::string* salt);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_CONTROLS_H_
