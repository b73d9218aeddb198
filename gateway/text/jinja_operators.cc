// Combine and Slice: Python's operators on values.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/jinja_renderer.h"
#include "gateway/text/jinja_strings.h"
#include "gateway/text/utf8.h"

namespace tessera::jinja {
namespace {

using Kind = Value::Kind;

// Longest text or list that * makes.
constexpr int64_t kLargestRepeat = 1 << 20;

absl::StatusOr<Value> CombineInts(std::string_view operation, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (operation == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (operation == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (operation == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (b == 0) {
    return absl::InvalidArgumentError("the chat template divides by zero");
  } else if (operation == "/") {
    return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  } else if (b == -1) {  // the one division that may overflow
    overflow = operation == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
  } else {
    // Python rounds down, C++ to zero.
    const bool down = a % b != 0 && (a < 0) != (b < 0);
    result = operation == "//" ? a / b - down : a % b + (down ? b : 0);
  }
  if (overflow) return absl::InvalidArgumentError("a number in the chat template is too large");
  return Value::Int(result);
}

absl::StatusOr<Value> CombineFloats(std::string_view operation, double a, double b) {
  if (operation == "+") return Value::Float(a + b);
  if (operation == "-") return Value::Float(a - b);
  if (operation == "*") return Value::Float(a * b);
  if (b == 0) return absl::InvalidArgumentError("the chat template divides by zero");
  if (operation == "/") return Value::Float(a / b);
  if (operation == "//") return Value::Float(std::floor(a / b));
  return Value::Float(a - b * std::floor(a / b));
}

absl::StatusOr<Value> Repeat(Pool* pool, const Value& value, int64_t count) {
  const bool is_text = value.is(Kind::kText);
  const size_t size = is_text ? value.text->size() : value.list->size();
  count = std::max<int64_t>(count, 0);
  if (count > kLargestRepeat || static_cast<int64_t>(size) * count > kLargestRepeat) {
    return absl::InvalidArgumentError("the chat template repeats something too often");
  }
  TrackedText text;
  List list;
  for (int64_t i = 0; i < count; ++i) {
    if (is_text) {
      text.Append(*value.text);
    } else {
      list.insert(list.end(), value.list->begin(), value.list->end());
    }
  }
  return is_text ? pool->Text(std::move(text)) : pool->MakeList(std::move(list));
}

// Offsets of the code points of `text`, and its size.
std::vector<size_t> Borders(Pool* pool, const TrackedText& text) {
  pool->Spend(text.size() * sizeof(size_t));
  std::vector<size_t> borders = {0};
  for (size_t offset = 0; offset < text.size();) {
    NextCodePoint(text.view(), &offset);
    borders.push_back(offset);
  }
  return borders;
}

// A slice's step; one beyond the size is as good as the size.
absl::StatusOr<int64_t> Step(const Value& step, int64_t size) {
  if (step.is(Kind::kUndefined) || step.is(Kind::kNone)) return 1;
  if (!step.is(Kind::kInt)) return TypeError("is no step of a slice", step);
  return std::clamp(step.integer, -size - 1, size + 1);
}

// Where a slice's bound lies, between `low` and `high`.
absl::StatusOr<int64_t> Bound(const Value& bound, int64_t otherwise, int64_t size, int64_t low,
                              int64_t high) {
  if (bound.is(Kind::kUndefined) || bound.is(Kind::kNone)) return otherwise;
  if (!bound.is(Kind::kInt) && !bound.is(Kind::kBool)) {
    return TypeError("is no bound of a slice", bound);
  }
  int64_t at = bound.AsInt();
  if (at < 0) at = std::max(at, -size - 1) + size;
  return std::clamp(at, low, high);
}

}  // namespace

absl::StatusOr<Value> Combine(Pool* pool, std::string_view operation, const Value& a,
                              const Value& b) {
  if (operation == "~") {
    TrackedText text = ToText(a, kOtherOrigin);
    text.Append(ToText(b, kOtherOrigin));
    return pool->Text(std::move(text));
  }
  if (a.IsNumber() && b.IsNumber()) {
    if (a.is(Kind::kFloat) || b.is(Kind::kFloat)) {
      return CombineFloats(operation, a.AsNumber(), b.AsNumber());
    }
    return CombineInts(operation, a.AsInt(), b.AsInt());
  }
  if (operation == "+" && a.is(Kind::kText) && b.is(Kind::kText)) {
    TrackedText text = *a.text;
    text.Append(*b.text);
    return pool->Text(std::move(text));
  }
  if (operation == "+" && a.is(Kind::kList) && b.is(Kind::kList)) {
    List list = *a.list;
    list.insert(list.end(), b.list->begin(), b.list->end());
    return pool->MakeList(std::move(list));
  }
  const bool repeats = operation == "*" && (a.is(Kind::kText) || a.is(Kind::kList));
  if (repeats && b.is(Kind::kInt)) return Repeat(pool, a, b.integer);
  return TypeError(Concat(operation, " ", KindName(b)), a);
}

Value Element(Pool* pool, const Value& value, int64_t index) {
  const bool is_list = value.is(Kind::kList);
  const std::vector<size_t> borders = is_list ? std::vector<size_t>() : Borders(pool, *value.text);
  const auto size = static_cast<int64_t>(is_list ? value.list->size() : borders.size() - 1);
  if (index < 0) index += size;
  if (index < 0 || index >= size) return Value();
  const auto at = static_cast<size_t>(index);
  if (is_list) return (*value.list)[at];
  return pool->Text(value.text->Cut(borders[at], borders[at + 1]));
}

absl::StatusOr<Value> Slice(Pool* pool, const Value& value, const Value& begin, const Value& end,
                            const Value& step_value) {
  const bool is_list = value.is(Kind::kList);
  if (!is_list && !value.is(Kind::kText)) return TypeError("cannot be sliced", value);
  const std::vector<size_t> borders = is_list ? std::vector<size_t>() : Borders(pool, *value.text);
  const auto size = static_cast<int64_t>(is_list ? value.list->size() : borders.size() - 1);
  ASSIGN_OR_RETURN(const int64_t step, Step(step_value, size));
  if (step == 0) return absl::InvalidArgumentError("the chat template slices with step 0");
  const bool forward = step > 0;
  // Python's rules: going back, the place before the first element is a bound, too.
  const int64_t low = forward ? 0 : -1, high = forward ? size : size - 1;
  ASSIGN_OR_RETURN(const int64_t first, Bound(begin, forward ? 0 : size - 1, size, low, high));
  ASSIGN_OR_RETURN(const int64_t last, Bound(end, forward ? size : -1, size, low, high));
  if (!is_list && step == 1) {
    const auto from = static_cast<size_t>(std::min(first, last)), to = static_cast<size_t>(last);
    return pool->Text(value.text->Cut(borders[from], borders[to]));
  }
  TrackedText text;
  List list;
  for (int64_t i = first; forward ? i < last : i > last; i += step) {
    const auto at = static_cast<size_t>(i);
    if (is_list) {
      list.push_back((*value.list)[at]);
    } else {
      text.Append(*value.text, borders[at], borders[at + 1]);
    }
  }
  return is_list ? pool->MakeList(std::move(list)) : pool->Text(std::move(text));
}

}  // namespace tessera::jinja
