#include "gateway/text/jinja_lists.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"

namespace tessera::jinja {
namespace {

using Kind = Value::Kind;
using Table = absl::flat_hash_map<std::string, Builtin>;

absl::StatusOr<Value> First(const Call& call) {
  ASSIGN_OR_RETURN(const List list, Elements(call.pool, call.arguments[0]));
  return list.empty() ? Value() : list.front();
}

absl::StatusOr<Value> Last(const Call& call) {
  ASSIGN_OR_RETURN(const List list, Elements(call.pool, call.arguments[0]));
  return list.empty() ? Value() : list.back();
}

absl::StatusOr<Value> ToList(const Call& call) {
  ASSIGN_OR_RETURN(List list, Elements(call.pool, call.arguments[0]));
  return call.pool->MakeList(std::move(list));
}

absl::StatusOr<Value> Reverse(const Call& call) {
  ASSIGN_OR_RETURN(List list, Elements(call.pool, call.arguments[0]));
  std::reverse(list.begin(), list.end());
  if (!call.arguments[0].is(Kind::kText)) return call.pool->MakeList(std::move(list));
  TrackedText text;
  for (const Value& letter : list) text.Append(*letter.text);
  return call.pool->Text(std::move(text));
}

absl::StatusOr<Value> Unique(const Call& call) {
  ASSIGN_OR_RETURN(const List list, Elements(call.pool, call.arguments[0]));
  List unique;
  for (const Value& value : list) {
    const auto same = [&](const Value& other) {
      call.pool->Spend(std::min(value.weight, other.weight));
      return AreEqual(value, other);
    };
    if (call.pool->exhausted()) return Exhausted();
    if (std::none_of(unique.begin(), unique.end(), same)) unique.push_back(value);
  }
  return call.pool->MakeList(std::move(unique));
}

// Pairs of a map, as lists of two.
absl::StatusOr<List> Pairs(const Call& call) {
  const Value& value = call.arguments[0];
  List pairs;
  if (value.is(Kind::kUndefined)) return pairs;
  if (!value.is(Kind::kMap)) return TypeError("has no items", value);
  call.pool->Spend(value.map->size() * sizeof(Map::value_type));
  for (const auto& [key, entry] : *value.map) {
    pairs.push_back(call.pool->MakeList({Value::Text(key), entry}));
  }
  return pairs;
}

absl::StatusOr<Value> MapPairs(const Call& call) {
  ASSIGN_OR_RETURN(List pairs, Pairs(call));
  return call.pool->MakeList(std::move(pairs));
}

absl::StatusOr<Value> SortedPairs(const Call& call) {
  ASSIGN_OR_RETURN(List pairs, Pairs(call));
  std::stable_sort(pairs.begin(), pairs.end(), [](const Value& a, const Value& b) {
    return (*a.list)[0].text->view() < (*b.list)[0].text->view();
  });
  return call.pool->MakeList(std::move(pairs));
}

absl::StatusOr<Value> Keys(const Call& call) {
  ASSIGN_OR_RETURN(List list, Pairs(call));
  for (Value& pair : list) pair = (*pair.list)[0];
  return call.pool->MakeList(std::move(list));
}

absl::StatusOr<Value> Values(const Call& call) {
  ASSIGN_OR_RETURN(List list, Pairs(call));
  for (Value& pair : list) pair = (*pair.list)[1];
  return call.pool->MakeList(std::move(list));
}

absl::StatusOr<Value> Get(const Call& call) {
  if (!call.arguments[0].is(Kind::kMap)) return TypeError("has no method get", call.arguments[0]);
  ASSIGN_OR_RETURN(const std::string_view key, call.Text(1, "key", ""));
  const Value* found = FindKey(*call.arguments[0].map, key);
  if (found != nullptr) return *found;
  const Value* otherwise = call.Find(2, "default");
  return otherwise == nullptr ? Value::None() : *otherwise;
}

// map(attribute="x"), or map("filter").
absl::StatusOr<Value> MapFilter(const Call& call) {
  ASSIGN_OR_RETURN(const List list, Elements(call.pool, call.arguments[0]));
  ASSIGN_OR_RETURN(const std::string_view attribute, call.Text(99, "attribute", ""));
  ASSIGN_OR_RETURN(const std::string_view name, call.Text(1, "filter", ""));
  const Builtin filter = FindFilter(name);
  if (attribute.empty() && filter == nullptr) {
    return absl::InvalidArgumentError(Concat("map(): no filter named ", name));
  }
  List result;
  for (const Value& value : list) {
    if (!attribute.empty()) {
      ASSIGN_OR_RETURN(Value entry, Attribute(value, attribute));
      result.push_back(entry);
      continue;
    }
    Call inner = {call.pool, call.now, {value}, {}};
    for (size_t i = 2; i < call.arguments.size(); ++i) inner.arguments.push_back(call.arguments[i]);
    ASSIGN_OR_RETURN(Value entry, Invoke(filter, inner));
    result.push_back(entry);
  }
  return call.pool->MakeList(std::move(result));
}

// select, reject, selectattr and rejectattr; `attribute` says which of them: the first argument
// then is its name.
absl::StatusOr<Value> Choose(const Call& call, bool attribute, bool wanted) {
  ASSIGN_OR_RETURN(const List list, Elements(call.pool, call.arguments[0]));
  const size_t test_at = attribute ? 2 : 1;
  ASSIGN_OR_RETURN(const std::string_view attribute_name, call.Text(1, "attribute", ""));
  ASSIGN_OR_RETURN(const std::string_view test_name, call.Text(test_at, "test", ""));
  const Builtin test = FindTest(test_name);
  if (test == nullptr && !test_name.empty()) {
    return absl::InvalidArgumentError(Concat("no test named ", test_name));
  }
  List result;
  for (const Value& value : list) {
    Value tested = value;
    if (attribute) {
      ASSIGN_OR_RETURN(tested, Attribute(value, attribute_name));
    }
    if (test != nullptr) {
      Call inner = {call.pool, call.now, {tested}, {}};
      for (size_t i = test_at + 1; i < call.arguments.size(); ++i) {
        inner.arguments.push_back(call.arguments[i]);
      }
      ASSIGN_OR_RETURN(tested, Invoke(test, inner));
    }
    if (IsTrue(tested) == wanted) result.push_back(value);
  }
  return call.pool->MakeList(std::move(result));
}

Builtin FindIn(const Table& table, std::string_view name) {
  const auto it = table.find(std::string(name));
  return it == table.end() ? nullptr : it->second;
}

}  // namespace

Builtin FindListFilter(std::string_view name) {
  static const Table kTable = {
      {"first", First},
      {"last", Last},
      {"list", ToList},
      {"reverse", Reverse},
      {"unique", Unique},
      {"items", MapPairs},
      {"dictsort", SortedPairs},
      {"map", MapFilter},
      {"select", [](const Call& call) { return Choose(call, false, true); }},
      {"reject", [](const Call& call) { return Choose(call, false, false); }},
      {"selectattr", [](const Call& call) { return Choose(call, true, true); }},
      {"rejectattr", [](const Call& call) { return Choose(call, true, false); }},
  };
  return FindIn(kTable, name);
}

Builtin FindMapMethod(std::string_view name) {
  static const Table kTable = {
      {"items", MapPairs}, {"keys", Keys}, {"values", Values}, {"get", Get}};
  return FindIn(kTable, name);
}

}  // namespace tessera::jinja
