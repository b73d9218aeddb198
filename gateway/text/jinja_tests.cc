// FindTest: what stands behind "is".
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/jinja_builtins.h"
#include "gateway/text/utf8.h"

namespace tessera::jinja {
namespace {

using Kind = Value::Kind;

absl::StatusOr<Value> Second(const Call& call) {
  const Value* value = call.Find(1, "other");
  if (value == nullptr) return absl::InvalidArgumentError("a test lacks its argument");
  return *value;
}

template <Kind... kinds>
absl::StatusOr<Value> IsKind(const Call& call) {
  return Value::Bool((call.arguments[0].is(kinds) || ...));
}

absl::StatusOr<Value> IsDefined(const Call& call) {
  return Value::Bool(!call.arguments[0].is(Kind::kUndefined));
}

absl::StatusOr<Value> IsExactly(const Call& call, bool wanted) {
  const Value& value = call.arguments[0];
  return Value::Bool(value.is(Kind::kBool) && value.boolean == wanted);
}

absl::StatusOr<Value> Equal(const Call& call, bool wanted) {
  ASSIGN_OR_RETURN(const Value other, Second(call));
  call.pool->Spend(std::min(call.arguments[0].weight, other.weight));
  return Value::Bool(AreEqual(call.arguments[0], other) == wanted);
}

absl::StatusOr<Value> IsIn(const Call& call) {
  ASSIGN_OR_RETURN(const Value container, Second(call));
  ASSIGN_OR_RETURN(const bool found, Contains(call.pool, container, call.arguments[0]));
  return Value::Bool(found);
}

absl::StatusOr<Value> Ordered(const Call& call, bool (*wanted)(int)) {
  ASSIGN_OR_RETURN(const Value other, Second(call));
  ASSIGN_OR_RETURN(const int order, Order(call.arguments[0], other));
  return Value::Bool(wanted(order));
}

absl::StatusOr<Value> Divides(const Call& call, int64_t divisor, int64_t remainder) {
  if (divisor == 0) return absl::InvalidArgumentError("divisibleby 0");
  ASSIGN_OR_RETURN(const int64_t number, call.Int(0, "", 0));
  return Value::Bool(divisor == -1 || (number % divisor == 0) == (remainder == 0));
}

absl::StatusOr<Value> DivisibleBy(const Call& call) {
  ASSIGN_OR_RETURN(const int64_t divisor, call.Int(1, "num", 0));
  return Divides(call, divisor, 0);
}

}  // namespace

Builtin FindTest(std::string_view name) {
  static const absl::flat_hash_map<std::string, Builtin> kTable = {
      {"defined", IsDefined},
      {"undefined", IsKind<Kind::kUndefined>},
      {"none", IsKind<Kind::kNone>},
      {"string", IsKind<Kind::kText>},
      {"mapping", IsKind<Kind::kMap>},
      {"iterable", IsKind<Kind::kText, Kind::kList, Kind::kMap, Kind::kUndefined>},
      {"sequence", IsKind<Kind::kText, Kind::kList, Kind::kMap, Kind::kUndefined>},
      {"number", IsKind<Kind::kBool, Kind::kInt, Kind::kFloat>},
      {"integer", IsKind<Kind::kInt>},
      {"float", IsKind<Kind::kFloat>},
      {"boolean", IsKind<Kind::kBool>},
      {"true", [](const Call& call) { return IsExactly(call, true); }},
      {"false", [](const Call& call) { return IsExactly(call, false); }},
      {"odd", [](const Call& call) { return Divides(call, 2, 1); }},
      {"even", [](const Call& call) { return Divides(call, 2, 0); }},
      {"divisibleby", DivisibleBy},
      {"equalto", [](const Call& call) { return Equal(call, true); }},
      {"eq", [](const Call& call) { return Equal(call, true); }},
      {"ne", [](const Call& call) { return Equal(call, false); }},
      {"in", IsIn},
      {"lt", [](const Call& call) { return Ordered(call, [](int o) { return o < 0; }); }},
      {"le", [](const Call& call) { return Ordered(call, [](int o) { return o <= 0; }); }},
      {"gt", [](const Call& call) { return Ordered(call, [](int o) { return o > 0; }); }},
      {"ge", [](const Call& call) { return Ordered(call, [](int o) { return o >= 0; }); }},
  };
  const auto it = kTable.find(std::string(name));
  return it == kTable.end() ? nullptr : it->second;
}

}  // namespace tessera::jinja
