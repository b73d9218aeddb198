// What all builtins share, and those that belong to no kind of value. Those on text are in
// jinja_strings.cc, on lists and maps in jinja_lists.cc.
#include "gateway/text/jinja_builtins.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/jinja_lists.h"
#include "gateway/text/jinja_strings.h"
#include "gateway/text/utf8.h"

namespace tessera::jinja {
namespace {

using Kind = Value::Kind;
using Table = absl::flat_hash_map<std::string, Builtin>;

// Longest list that range() makes.
constexpr int64_t kLargestRange = 100000;

Builtin FindIn(const Table& table, std::string_view name) {
  const auto it = table.find(std::string(name));
  return it == table.end() ? nullptr : it->second;
}

size_t CodePointCount(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; }));
}

absl::StatusOr<Value> Length(const Call& call) {
  const Value& value = call.arguments[0];
  size_t count = 0;
  if (value.is(Kind::kText)) {
    count = CodePointCount(value.text->view());
  } else if (value.is(Kind::kList)) {
    count = value.list->size();
  } else if (value.is(Kind::kMap)) {
    count = value.map->size();
  } else if (!value.is(Kind::kUndefined)) {
    return TypeError("has no length", value);
  }
  return Value::Int(static_cast<int64_t>(count));
}

absl::StatusOr<Value> ToJsonFilter(const Call& call) {
  JsonStyle style;
  ASSIGN_OR_RETURN(const int64_t indent, call.Int(1, "indent", -1));
  style.indent = static_cast<int>(std::min<int64_t>(indent, 64));
  if (style.indent >= 0) style.separator = ",";
  const Value* ascii = call.Find(99, "ensure_ascii");
  const Value* sort = call.Find(99, "sort_keys");
  style.ascii = ascii != nullptr && IsTrue(*ascii);
  style.sort_keys = sort != nullptr && IsTrue(*sort);
  const Value* separators = call.Find(99, "separators");
  if (separators != nullptr && separators->is(Kind::kList) && separators->list->size() == 2) {
    style.separator = std::string(ToText((*separators->list)[0], 0).view());
    style.colon = std::string(ToText((*separators->list)[1], 0).view());
  }
  return call.pool->Text(ToJson(call.arguments[0], style, kOtherOrigin));
}

absl::StatusOr<Value> Default(const Call& call) {
  const Value* otherwise = call.Find(1, "default_value");
  const Value* boolean = call.Find(2, "boolean");
  const Value& value = call.arguments[0];
  const bool absent =
      value.is(Kind::kUndefined) || (boolean != nullptr && IsTrue(*boolean) && !IsTrue(value));
  if (!absent) return value;
  return otherwise == nullptr ? call.pool->Text("", kOtherOrigin) : *otherwise;
}

absl::StatusOr<Value> ToInt(const Call& call) {
  const Value& value = call.arguments[0];
  ASSIGN_OR_RETURN(int64_t number, call.Int(1, "default", 0));
  if (value.is(Kind::kFloat) && std::fabs(value.number) < 9e18) {
    number = static_cast<int64_t>(value.number);
  } else if (value.IsNumber() && !value.is(Kind::kFloat)) {
    number = value.AsInt();
  } else if (value.is(Kind::kText)) {
    int64_t parsed;
    double real;
    const std::string text(value.text->view());
    if (absl::SimpleAtoi(text, &parsed)) {
      number = parsed;
    } else if (absl::SimpleAtod(text, &real) && std::fabs(real) < 9e18) {
      number = static_cast<int64_t>(real);
    }
  }
  return Value::Int(number);
}

absl::StatusOr<Value> ToFloat(const Call& call) {
  const Value& value = call.arguments[0];
  double number = 0;
  if (value.IsNumber()) {
    number = value.AsNumber();
  } else if (value.is(Kind::kText) && !absl::SimpleAtod(std::string(value.text->view()), &number)) {
    number = 0;
  }
  return Value::Float(number);
}

absl::StatusOr<Value> Absolute(const Call& call) {
  const Value& value = call.arguments[0];
  if (!value.IsNumber()) return TypeError("has no absolute value", value);
  if (value.is(Kind::kFloat)) return Value::Float(std::fabs(value.number));
  const int64_t number = value.AsInt();
  return Value::Int(number < 0 ? static_cast<int64_t>(-static_cast<uint64_t>(number)) : number);
}

absl::StatusOr<Value> Range(const Call& call) {
  ASSIGN_OR_RETURN(int64_t begin, call.Int(0, "", 0));
  int64_t end = begin;
  if (call.arguments.size() < 2) {
    begin = 0;
  } else {
    ASSIGN_OR_RETURN(end, call.Int(1, "", 0));
  }
  ASSIGN_OR_RETURN(const int64_t step, call.Int(2, "", 1));
  if (step == 0) return absl::InvalidArgumentError("range() with a step of zero");
  List list;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (list.size() >= kLargestRange) return absl::InvalidArgumentError("range() is too long");
    list.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return call.pool->MakeList(std::move(list));
}

absl::StatusOr<Value> RaiseException(const Call& call) {
  const std::string text(call.arguments.empty() ? ""
                                                : std::string(ToText(call.arguments[0], 0).view()));
  return absl::InvalidArgumentError(Concat("the chat template refuses this: ", text));
}

absl::StatusOr<Value> Dict(const Call& call) {
  Map map;
  for (const auto& [name, value] : call.named) {
    map.emplace_back(call.pool->Text(name, kOtherOrigin).text, value);
  }
  return call.pool->MakeMap(std::move(map));
}

absl::StatusOr<Value> Now(const Call& call) {
  ASSIGN_OR_RETURN(const std::string_view format, call.Text(0, "format", "%Y-%m-%d"));
  return call.pool->Text(
      absl::FormatTime({format.data(), format.size()}, call.now, absl::LocalTimeZone()),
      kOtherOrigin);
}

absl::StatusOr<Value> SameValue(const Call& call) { return call.arguments[0]; }

}  // namespace

const Value* Call::Find(size_t position, std::string_view name) const {
  if (position < arguments.size()) return &arguments[position];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

absl::StatusOr<std::string_view> Call::Text(size_t position, std::string_view name,
                                            std::string_view otherwise) const {
  const Value* value = Find(position, name);
  if (value == nullptr || value->is(Kind::kNone)) return otherwise;
  if (!value->is(Kind::kText)) return TypeError("is used as text", *value);
  return value->text->view();
}

absl::StatusOr<int64_t> Call::Int(size_t position, std::string_view name, int64_t otherwise) const {
  const Value* value = Find(position, name);
  if (value == nullptr || value->is(Kind::kNone)) return otherwise;
  if (!value->is(Kind::kInt) && !value->is(Kind::kBool)) {
    return TypeError("is used as a whole number", *value);
  }
  return value->AsInt();
}

absl::StatusOr<const TrackedText*> Call::Self() const {
  if (!arguments[0].is(Kind::kText)) return TypeError("is used as text", arguments[0]);
  return arguments[0].text;
}

absl::StatusOr<Value> Invoke(Builtin builtin, const Call& call) {
  for (const Value& argument : call.arguments) {
    if (argument.is(Kind::kText)) call.pool->Spend(argument.weight);
  }
  if (call.pool->exhausted()) return Exhausted();
  return builtin(call);
}

absl::Status Exhausted() {
  return absl::ResourceExhaustedError("the chat template runs too long for this prompt");
}

absl::StatusOr<List> Elements(Pool* pool, const Value& value) {
  List list;
  const size_t count = value.is(Kind::kList)   ? value.list->size()
                       : value.is(Kind::kMap)  ? value.map->size()
                       : value.is(Kind::kText) ? value.text->size()
                                               : 0;
  pool->Spend(count * sizeof(Value));
  if (value.is(Kind::kText)) pool->HasRoom(count * Pool::kTextBytes);
  if (pool->exhausted()) return Exhausted();
  switch (value.kind) {
    case Kind::kUndefined:
      return list;
    case Kind::kList:
      return *value.list;
    case Kind::kMap:
      for (const auto& [key, entry] : *value.map) list.push_back(Value::Text(key));
      return list;
    case Kind::kText:
      for (size_t offset = 0; offset < value.text->size();) {
        const size_t begin = offset;
        NextCodePoint(value.text->view(), &offset);
        list.push_back(pool->Text(value.text->Cut(begin, offset)));
      }
      return list;
    default:
      return TypeError("cannot be walked through", value);
  }
}

absl::StatusOr<Value> Attribute(const Value& value, std::string_view name) {
  if (value.is(Kind::kUndefined)) {
    return absl::InvalidArgumentError(
        Concat("the chat template reads '", name, "' of something that is not there"));
  }
  const Map* map = value.is(Kind::kMap)         ? value.map
                   : value.is(Kind::kNamespace) ? value.space
                                                : nullptr;
  const Value* found = map == nullptr ? nullptr : FindKey(*map, name);
  return found == nullptr ? Value() : *found;
}

absl::StatusOr<bool> Contains(Pool* pool, const Value& container, const Value& element) {
  switch (container.kind) {
    case Kind::kUndefined:
      return false;
    case Kind::kText:
      if (!element.is(Kind::kText)) return TypeError("is looked for in a text", element);
      return container.text->view().find(element.text->view()) != std::string_view::npos;
    case Kind::kList:
      return std::any_of(container.list->begin(), container.list->end(), [&](const Value& value) {
        pool->Spend(std::min(value.weight, element.weight));
        return AreEqual(value, element);
      });
    case Kind::kMap:
      return element.is(Kind::kText) && FindKey(*container.map, element.text->view()) != nullptr;
    default:
      return TypeError("cannot hold anything", container);
  }
}

absl::StatusOr<int> Order(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (a.is(Kind::kFloat) || b.is(Kind::kFloat)) {
      return (a.AsNumber() > b.AsNumber()) - (a.AsNumber() < b.AsNumber());
    }
    return (a.AsInt() > b.AsInt()) - (a.AsInt() < b.AsInt());
  }
  if (a.is(Kind::kText) && b.is(Kind::kText)) return a.text->view().compare(b.text->view());
  return TypeError(Concat("has no order with ", KindName(b)), a);
}

absl::Status TypeError(std::string_view what, const Value& value) {
  return absl::InvalidArgumentError(
      Concat("the chat template cannot work with these values: ", KindName(value), " ", what));
}

Builtin FindFilter(std::string_view name) {
  static const Table kTable = {
      {"length", Length},   {"count", Length}, {"tojson", ToJsonFilter},
      {"default", Default}, {"d", Default},    {"int", ToInt},
      {"float", ToFloat},   {"abs", Absolute}, {"safe", SameValue},
  };
  const Builtin found = FindIn(kTable, name);
  if (found != nullptr) return found;
  const Builtin text = FindTextFilter(name);
  return text != nullptr ? text : FindListFilter(name);
}

Builtin FindMethod(std::string_view name) {
  const Builtin text = FindTextMethod(name);
  return text != nullptr ? text : FindMapMethod(name);
}

Builtin FindFunction(std::string_view name) {
  static const Table kTable = {
      {"range", Range}, {"raise_exception", RaiseException}, {"dict", Dict}, {"strftime_now", Now}};
  return FindIn(kTable, name);
}

}  // namespace tessera::jinja
