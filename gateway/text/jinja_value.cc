#include "gateway/text/jinja_value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "gateway/text/utf8.h"

namespace tessera::jinja {

using Kind = Value::Kind;

namespace {

// Of a list or map that has `entry` in it.
uint8_t DepthAround(const Value& entry) {
  return static_cast<uint8_t>(std::min<int>(entry.depth + 1, UINT8_MAX));
}

// Whether both have equal values at equal keys. In order of keys: n look-ups would take n * n
// steps.
bool MapsAreEqual(const Map& a, const Map& b) {
  if (a.size() != b.size()) return false;
  const auto sorted = [](Map map) {
    std::sort(map.begin(), map.end(),
              [](const auto& x, const auto& y) { return x.first->view() < y.first->view(); });
    return map;
  };
  const Map left = sorted(a), right = sorted(b);
  return std::equal(left.begin(), left.end(), right.begin(), [](const auto& x, const auto& y) {
    return x.first->view() == y.first->view() && AreEqual(x.second, y.second);
  });
}

}  // namespace

Value Value::None() {
  Value value;
  value.kind = Kind::kNone;
  return value;
}

Value Value::Bool(bool boolean) {
  Value value;
  value.kind = Kind::kBool;
  value.boolean = boolean;
  return value;
}

Value Value::Int(int64_t integer) {
  Value value;
  value.kind = Kind::kInt;
  value.integer = integer;
  return value;
}

Value Value::Float(double number) {
  Value value;
  value.kind = Kind::kFloat;
  value.number = number;
  return value;
}

Value Value::Text(const TrackedText* text) {
  Value value;
  value.kind = Kind::kText;
  value.weight += static_cast<uint32_t>(std::min(text->size(), Pool::kLargestValue));
  value.text = text;
  return value;
}

double Value::AsNumber() const {
  return kind == Kind::kFloat ? number : static_cast<double>(AsInt());
}

bool Pool::Spend(size_t bytes) {
  work_ += bytes;
  exhausted_ = exhausted_ || work_ > kLargestWork;
  return !exhausted_;
}

bool Pool::HasRoom(size_t bytes) {
  exhausted_ = exhausted_ || bytes > kLargestTotal - std::min(total_, kLargestTotal);
  return !exhausted_;
}

void Pool::Account(size_t bytes, size_t weight, Value* value) {
  total_ += bytes;
  exhausted_ = exhausted_ || total_ > kLargestTotal || weight > kLargestValue ||
               value->depth > kLargestDepth;
  value->weight = static_cast<uint32_t>(std::min(weight, kLargestValue));
}

Value Pool::Text(TrackedText text) {
  const size_t bytes = kTextBytes + text.size() + text.runs().size() * sizeof(TrackedText::Run);
  Value value = Value::Text(&texts_.emplace_back(std::move(text)));
  Account(bytes, Value::kLeastWeight + value.text->size(), &value);
  return value;
}

Value Pool::MakeList(List list) {
  Value value;
  value.kind = Kind::kList;
  value.list = &lists_.emplace_back(std::move(list));
  size_t weight = Value::kLeastWeight;
  for (const Value& entry : *value.list) {
    weight += entry.weight;
    value.depth = std::max(value.depth, DepthAround(entry));
  }
  Account(sizeof(List) + value.list->size() * sizeof(Value), weight, &value);
  return value;
}

Value Pool::MakeMap(Map map) {
  Value value;
  value.kind = Kind::kMap;
  value.map = &maps_.emplace_back(std::move(map));
  size_t weight = Value::kLeastWeight;
  for (const auto& [key, entry] : *value.map) {
    weight += Value::kLeastWeight + key->size() + entry.weight;
    value.depth = std::max(value.depth, DepthAround(entry));
  }
  Account(sizeof(Map) + value.map->size() * sizeof(Map::value_type), weight, &value);
  return value;
}

// Of depth 0: it is written and compared without what is in it, and so may hold itself.
Value Pool::MakeNamespace(Map map) {
  Value value;
  value.kind = Kind::kNamespace;
  value.space = &maps_.emplace_back(std::move(map));
  return value;
}

Value Pool::FromJson(const boost::json::value& json, int origin) {
  switch (json.kind()) {
    case boost::json::kind::null:
      return Value::None();
    case boost::json::kind::bool_:
      return Value::Bool(json.get_bool());
    case boost::json::kind::int64:
      return Value::Int(json.get_int64());
    case boost::json::kind::uint64:
      return Value::Float(static_cast<double>(json.get_uint64()));  // beyond int64
    case boost::json::kind::double_:
      return Value::Float(json.get_double());
    case boost::json::kind::string:
      return Text({json.get_string().data(), json.get_string().size()}, origin);
    case boost::json::kind::array: {
      List list;
      for (const boost::json::value& entry : json.get_array()) {
        list.push_back(FromJson(entry, origin));
      }
      return MakeList(std::move(list));
    }
    case boost::json::kind::object: {
      Map map;
      for (const auto& [key, entry] : json.get_object()) {
        const Value name = Text({key.data(), key.size()}, origin);
        map.emplace_back(name.text, FromJson(entry, origin));
      }
      return MakeMap(std::move(map));
    }
  }
  return Value();
}

bool IsTrue(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return value.boolean;
    case Kind::kInt:
      return value.integer != 0;
    case Kind::kFloat:
      return value.number != 0;
    case Kind::kText:
      return value.text->size() > 0;
    case Kind::kList:
      return !value.list->empty();
    case Kind::kMap:
      return !value.map->empty();
    case Kind::kNamespace:
      return true;
  }
  return false;
}

bool AreEqual(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) {
    if (!a.is(Kind::kFloat) && !b.is(Kind::kFloat)) return a.AsInt() == b.AsInt();
    return a.AsNumber() == b.AsNumber();
  }
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Kind::kText:
      return a.text->view() == b.text->view();
    case Kind::kList:
      return std::equal(a.list->begin(), a.list->end(), b.list->begin(), b.list->end(), AreEqual);
    case Kind::kMap:
      return MapsAreEqual(*a.map, *b.map);
    case Kind::kNamespace:
      return a.space == b.space;
    default:
      return true;  // undefined and none
  }
}

const Value* FindKey(const Map& map, std::string_view key) {
  for (const auto& [name, value] : map) {
    if (name->view() == key) return &value;
  }
  return nullptr;
}

std::string_view KindName(const Value& value) {
  constexpr std::array<std::string_view, 9> kNames = {
      "undefined", "NoneType", "bool", "int", "float", "str", "list", "dict", "namespace"};
  return kNames[static_cast<size_t>(value.kind)];
}

std::string FloatText(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  std::array<char, 400> buffer;
  const double size = std::fabs(number);
  // Python writes an exponent from 1e16 up and below 1e-4.
  const auto format = size != 0 && (size >= 1e16 || size < 1e-4) ? std::chars_format::scientific
                                                                 : std::chars_format::fixed;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, format);
  std::string text(buffer.data(), end.ptr);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

}  // namespace tessera::jinja
