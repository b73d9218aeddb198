// Typed reading of a JSON object's fields, with errors that name the field and what it should be.
#ifndef TESSERA_GATEWAY_OPENAI_FIELDS_H_
#define TESSERA_GATEWAY_OPENAI_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "boost/json/object.hpp"
#include "boost/json/value.hpp"

namespace tessera::openai {

// The JSON object that `body` spells. Errors: INVALID_ARGUMENT with the byte where it breaks, for a
// body that is empty, not UTF-8, not JSON, or not an object.
absl::StatusOr<boost::json::object> ParseObject(std::string_view body);

// Reads from one object, which must outlive this. A field that is absent or null leaves *out as it
// is. The first error sticks and later reads do nothing, so that a caller reads all its fields and
// looks at status() once. Not thread-safe.
class Fields {
 public:
  // `prefix` stands before every name in errors: "tessera." for a nested object.
  explicit Fields(const boost::json::object& object, std::string prefix = {})
      : object_(object), prefix_(std::move(prefix)) {}

  void Read(std::string_view name, std::string* out);
  void Read(std::string_view name, bool* out);
  // Numbers must be within [low, high]; whole numbers may be written as 16.0 too.
  void Read(std::string_view name, double low, double high, double* out);
  void Read(std::string_view name, int64_t low, int64_t high, int64_t* out);

  // The value, or null when the field is absent or null.
  const boost::json::value* Find(std::string_view name) const;
  // The same, where only an object will do.
  const boost::json::object* FindObject(std::string_view name);

  // Records an error about `name`: "'name' must be ...".
  void Fail(std::string_view name, std::string_view must);

  const absl::Status& status() const { return status_; }

 private:
  const boost::json::object& object_;
  const std::string prefix_;
  absl::Status status_;
};

// The whole number that `value` is; nothing for any other.
std::optional<int64_t> WholeNumber(const boost::json::value& value);

// The token ids that an array of whole numbers is; nothing for any other.
std::optional<std::vector<uint32_t>> TokenIds(const boost::json::array& array);

}  // namespace tessera::openai

#endif  // TESSERA_GATEWAY_OPENAI_FIELDS_H_
