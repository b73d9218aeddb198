// Filters, tests, methods and functions of the template language.
#ifndef TESSERA_GATEWAY_TEXT_JINJA_BUILTINS_H_
#define TESSERA_GATEWAY_TEXT_JINJA_BUILTINS_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/text/jinja_value.h"

namespace tessera::jinja {

// Arguments of one call. Of a filter, test or method, the value that it is applied to comes first.
struct Call {
  Pool* pool;
  absl::Time now;
  std::vector<Value> arguments;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at `position` or of that name, or null.
  const Value* Find(size_t position, std::string_view name) const;
  // Its text; `otherwise` when it is absent or none. Errors: INVALID_ARGUMENT for another kind.
  absl::StatusOr<std::string_view> Text(size_t position, std::string_view name,
                                        std::string_view otherwise) const;
  absl::StatusOr<int64_t> Int(size_t position, std::string_view name, int64_t otherwise) const;
  // The text that a method or filter is applied to. Errors: INVALID_ARGUMENT for another kind.
  absl::StatusOr<const TrackedText*> Self() const;
};

// Errors: INVALID_ARGUMENT in the template's words or ours.
using Builtin = absl::StatusOr<Value> (*)(const Call& call);

// Null for an unknown name.
Builtin FindFilter(std::string_view name);
Builtin FindTest(std::string_view name);
Builtin FindMethod(std::string_view name);
Builtin FindFunction(std::string_view name);

// What the filters share with the interpreter:

// Runs a builtin; texts among its arguments count as walked through.
// Errors: the builtin's, Exhausted.
absl::StatusOr<Value> Invoke(Builtin builtin, const Call& call);

// RESOURCE_EXHAUSTED: the rendering has used up its pool or its steps.
absl::Status Exhausted();

// Elements of a list, keys of a map, letters of a text; nothing of undefined.
// Errors: INVALID_ARGUMENT for what cannot be walked, Exhausted.
absl::StatusOr<List> Elements(Pool* pool, const Value& value);

// `value`.`name`: an entry of a map or namespace; undefined when there is none.
// Errors: INVALID_ARGUMENT for an attribute of undefined.
absl::StatusOr<Value> Attribute(const Value& value, std::string_view name);

// Whether `element` is in `container`: a text in a text, a value in a list, a key in a map.
absl::StatusOr<bool> Contains(Pool* pool, const Value& container, const Value& element);

// Below 0, 0 or above 0. Errors: INVALID_ARGUMENT when the kinds have no order.
absl::StatusOr<int> Order(const Value& a, const Value& b);

absl::Status TypeError(std::string_view what, const Value& value);

}  // namespace tessera::jinja

#endif  // TESSERA_GATEWAY_TEXT_JINJA_BUILTINS_H_
