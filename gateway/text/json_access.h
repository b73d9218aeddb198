// Reads of Boost.JSON objects with a default for what is absent or of another kind.
#ifndef TESSERA_GATEWAY_TEXT_JSON_ACCESS_H_
#define TESSERA_GATEWAY_TEXT_JSON_ACCESS_H_

#include <boost/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera {

// Null when `key` is absent or null.
const boost::json::value* JsonFind(const boost::json::object& json, std::string_view key);
std::string_view JsonString(const boost::json::object& json, std::string_view key,
                            std::string_view otherwise = "");
bool JsonBool(const boost::json::object& json, std::string_view key, bool otherwise);

// The object in the file at `path`. Errors: NOT_FOUND, INVALID_ARGUMENT naming the path.
absl::StatusOr<boost::json::object> ReadJsonObject(const std::string& path);

// The bytes of the file at `path`. Errors: NOT_FOUND.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_JSON_ACCESS_H_
