#include "gateway/text/json_access.h"

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"

namespace tessera {

const boost::json::value* JsonFind(const boost::json::object& json, std::string_view key) {
  const boost::json::value* found = json.if_contains(key);
  return found == nullptr || found->is_null() ? nullptr : found;
}

std::string_view JsonString(const boost::json::object& json, std::string_view key,
                            std::string_view otherwise) {
  const boost::json::value* found = JsonFind(json, key);
  if (found == nullptr || !found->is_string()) return otherwise;
  return {found->get_string().data(), found->get_string().size()};
}

bool JsonBool(const boost::json::object& json, std::string_view key, bool otherwise) {
  const boost::json::value* found = JsonFind(json, key);
  return found != nullptr && found->is_bool() ? found->get_bool() : otherwise;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  if (!file.is_open() || !(bytes << file.rdbuf())) {
    return absl::NotFoundError(Concat("cannot read ", path));
  }
  return std::move(bytes).str();
}

absl::StatusOr<boost::json::object> ReadJsonObject(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  boost::json::error_code error;
  boost::json::value json = boost::json::parse(text, error);
  if (error) return absl::InvalidArgumentError(Concat(path, ": ", error.message()));
  if (!json.is_object()) return absl::InvalidArgumentError(Concat(path, ": not an object"));
  return std::move(json.get_object());
}

}  // namespace tessera
