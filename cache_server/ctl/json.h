// The server's answers as JSON, for --json.
#ifndef TESSERA_CACHE_SERVER_CTL_JSON_H_
#define TESSERA_CACHE_SERVER_CTL_JSON_H_

#include <google/protobuf/message.h>

#include <boost/json.hpp>

namespace tessera::ctl {

// All fields of a message under their names in proto/kv_cache.proto, unset ones too. Unlike
// protobuf's own mapping, bytes are hexadecimal digits (as keys are written everywhere else),
// 64-bit integers are numbers, and enum values are in lower case.
boost::json::object ToJson(const google::protobuf::Message& message);

}  // namespace tessera::ctl

#endif  // TESSERA_CACHE_SERVER_CTL_JSON_H_
