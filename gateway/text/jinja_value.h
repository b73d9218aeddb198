// Values of the template language, with Python's meaning of truth, equality and str().
#ifndef TESSERA_GATEWAY_TEXT_JINJA_VALUE_H_
#define TESSERA_GATEWAY_TEXT_JINJA_VALUE_H_

#include <boost/json.hpp>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/text/tracked_text.h"

namespace tessera::jinja {

struct Value;
using List = std::vector<Value>;
// In order of insertion; keys are strings.
using Map = std::vector<std::pair<const TrackedText*, Value>>;

// A small handle: texts, lists and maps live in a Pool (or in the parsed template).
struct Value {
  enum class Kind : uint8_t {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kText,
    kList,
    kMap,
    kNamespace
  };
  // What every value counts at least.
  static constexpr uint32_t kLeastWeight = 16;

  Kind kind = Kind::kUndefined;
  // How many lists and maps are one in the other here.
  uint8_t depth = 0;
  // About the bytes of walking through all of it; what occurs twice in it counts twice.
  uint32_t weight = kLeastWeight;
  union {
    bool boolean;
    int64_t integer = 0;
    double number;
    const TrackedText* text;
    const List* list;
    const Map* map;
    Map* space;  // of a namespace: the one kind that templates may change
  };

  static Value None();
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value Text(const TrackedText* value);

  bool is(Kind other) const { return kind == other; }
  // Bools count as numbers, as in Python.
  bool IsNumber() const {
    return kind == Kind::kBool || kind == Kind::kInt || kind == Kind::kFloat;
  }
  double AsNumber() const;
  // Of a bool or an int.
  int64_t AsInt() const { return kind == Kind::kBool ? boolean : integer; }
};

// Owns what a rendering makes; freed with it. Counts memory and work, and says when a rendering has
// had enough: what it gives is usable then, too, but whoever makes more of it has to look.
// Not thread-safe.
class Pool {
 public:
  // Of one value, of all memory, and of all that was walked through. A list or map may have others
  // in it so deep.
  static constexpr size_t kLargestValue = 32 << 20;
  static constexpr size_t kLargestTotal = 512 << 20;
  static constexpr size_t kLargestWork = 1 << 30;
  static constexpr uint8_t kLargestDepth = 200;
  // A text's own part of the memory.
  static constexpr size_t kTextBytes = 112;

  // A limit was passed: the rendering must end.
  bool exhausted() const { return exhausted_; }
  // Counts `bytes` that are walked through. Returns !exhausted().
  bool Spend(size_t bytes);
  // Whether so much more memory is there; if not, this is exhausted.
  bool HasRoom(size_t bytes);

  Value Text(TrackedText text);
  Value Text(std::string_view text, int origin) { return Text(TrackedText(text, origin)); }
  Value MakeList(List list);
  Value MakeMap(Map map);
  Value MakeNamespace(Map map);
  // `json` with all its strings of one origin.
  Value FromJson(const boost::json::value& json, int origin);

 private:
  // Counts a value's memory, and lets its weight be at most kLargestValue.
  void Account(size_t bytes, size_t weight, Value* value);

  std::deque<TrackedText> texts_;
  std::deque<List> lists_;
  std::deque<Map> maps_;
  size_t total_ = 0;
  size_t work_ = 0;
  bool exhausted_ = false;
};

bool IsTrue(const Value& value);
bool AreEqual(const Value& a, const Value& b);

// The value at `key`, or null.
const Value* FindKey(const Map& map, std::string_view key);

// str(value); `origin` is given to what is not text already.
TrackedText ToText(const Value& value, int origin);

// The kind in Python's words, for error messages.
std::string_view KindName(const Value& value);

// repr(float).
std::string FloatText(double number);

struct JsonStyle {
  int indent = -1;  // below 0: on one line
  bool ascii = false;
  bool sort_keys = false;
  std::string separator = ", ";
  std::string colon = ": ";
};

// json.dumps(value); undefined counts as null. `origin` is given to what is not text already. Stops
// past Pool::kLargestValue bytes.
TrackedText ToJson(const Value& value, const JsonStyle& style, int origin);

}  // namespace tessera::jinja

#endif  // TESSERA_GATEWAY_TEXT_JINJA_VALUE_H_
