#include "gateway/text/jinja_strings.h"

#include <utf8proc.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/utf8.h"

namespace tessera::jinja {
namespace {

using Kind = Value::Kind;
using Table = absl::flat_hash_map<std::string, Builtin>;

// str.isspace.
bool IsPythonSpace(char32_t c) { return IsWhiteSpace(c) || (c >= 0x1c && c <= 0x1f); }

// Whether strip() takes `c`: white space, or one of `letters` when they are given.
bool Strips(char32_t c, const Value* letters) {
  if (letters == nullptr || !letters->is(Kind::kText)) return IsPythonSpace(c);
  const std::string_view view = letters->text->view();
  for (size_t offset = 0; offset < view.size();) {
    if (NextCodePoint(view, &offset) == c) return true;
  }
  return false;
}

absl::StatusOr<Value> Strip(const Call& call, bool left, bool right) {
  // The filter trim takes values that are no text, too.
  const TrackedText text = ToText(call.arguments[0], kOtherOrigin);
  const Value* letters = call.Find(1, "chars");
  const std::string_view view = text.view();
  size_t begin = 0, end = view.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!Strips(NextCodePoint(view, &next), letters)) break;
    begin = next;
  }
  while (right && end > begin) {
    const size_t previous = PreviousBorder(view, end);
    size_t offset = previous;
    if (!Strips(NextCodePoint(view, &offset), letters)) break;
    end = previous;
  }
  return call.pool->Text(text.Cut(begin, end));
}

enum class Casing { kUpper, kLower, kCapitalize, kTitle };

absl::StatusOr<Value> ChangeCase(const Call& call, Casing casing) {
  const TrackedText text = ToText(call.arguments[0], kOtherOrigin);
  TrackedText changed;
  bool starts = true;  // a word, or the text
  for (size_t offset = 0; offset < text.size();) {
    const size_t begin = offset;
    const auto letter = static_cast<utf8proc_int32_t>(NextCodePoint(text.view(), &offset));
    const bool upper = casing == Casing::kUpper || (casing != Casing::kLower && starts);
    std::string bytes;
    AppendUtf8(static_cast<char32_t>(upper ? utf8proc_toupper(letter) : utf8proc_tolower(letter)),
               &bytes);
    changed.Append(bytes, text.OriginAt(begin));
    const bool is_letter = utf8proc_toupper(letter) != utf8proc_tolower(letter);
    starts = casing == Casing::kTitle && !is_letter;
  }
  return call.pool->Text(std::move(changed));
}

absl::StatusOr<Value> Replace(const Call& call) {
  const TrackedText text = ToText(call.arguments[0], kOtherOrigin);
  ASSIGN_OR_RETURN(const std::string_view old, call.Text(1, "old", ""));
  const Value* fresh = call.Find(2, "new");
  if (fresh == nullptr || !fresh->is(Kind::kText)) {
    return absl::InvalidArgumentError("replace() without a text to put in");
  }
  ASSIGN_OR_RETURN(int64_t left, call.Int(3, "count", -1));
  if (left < 0) left = std::numeric_limits<int64_t>::max();
  if (old.empty()) return absl::InvalidArgumentError("replace() of an empty text");
  TrackedText replaced;
  size_t begin = 0;
  for (; left > 0 && replaced.size() <= Pool::kLargestValue; --left) {
    const size_t found = text.view().find(old, begin);
    if (found == std::string_view::npos) break;
    replaced.Append(text, begin, found);
    replaced.Append(*fresh->text);
    begin = found + old.size();
  }
  replaced.Append(text, begin, text.size());
  return call.pool->Text(std::move(replaced));
}

// split() at white space.
List SplitWords(Pool* pool, const TrackedText& text) {
  List words;
  size_t begin = 0, offset = 0;
  bool in_word = false;
  while (offset < text.size() && !pool->exhausted()) {
    const size_t at = offset;
    const bool space = IsPythonSpace(NextCodePoint(text.view(), &offset));
    if (space && in_word) words.push_back(pool->Text(text.Cut(begin, at)));
    if (!space && !in_word) begin = at;
    in_word = !space;
  }
  if (in_word) words.push_back(pool->Text(text.Cut(begin, text.size())));
  return words;
}

absl::StatusOr<Value> Split(const Call& call) {
  ASSIGN_OR_RETURN(const TrackedText* text, call.Self());
  const Value* separator = call.Find(1, "sep");
  ASSIGN_OR_RETURN(int64_t left, call.Int(2, "maxsplit", -1));
  if (separator == nullptr || separator->is(Kind::kNone)) {
    if (left >= 0) return absl::InvalidArgumentError("split() at white space with a limit");
    return call.pool->MakeList(SplitWords(call.pool, *text));
  }
  ASSIGN_OR_RETURN(const std::string_view mark, call.Text(1, "sep", ""));
  if (mark.empty()) return absl::InvalidArgumentError("split() at an empty text");
  List parts;
  size_t begin = 0;
  for (; left != 0 && !call.pool->exhausted(); --left) {
    const size_t found = text->view().find(mark, begin);
    if (found == std::string_view::npos) break;
    parts.push_back(call.pool->Text(text->Cut(begin, found)));
    begin = found + mark.size();
  }
  parts.push_back(call.pool->Text(text->Cut(begin, text->size())));
  return call.pool->MakeList(std::move(parts));
}

absl::StatusOr<Value> RightSplit(const Call& call) {
  ASSIGN_OR_RETURN(const TrackedText* text, call.Self());
  ASSIGN_OR_RETURN(const std::string_view mark, call.Text(1, "sep", ""));
  ASSIGN_OR_RETURN(int64_t left, call.Int(2, "maxsplit", -1));
  if (mark.empty()) return absl::InvalidArgumentError("rsplit() without a text to split at");
  List parts;
  size_t end = text->size();
  for (; left != 0 && end >= mark.size() && !call.pool->exhausted(); --left) {
    const size_t found = text->view().substr(0, end).rfind(mark);
    if (found == std::string_view::npos) break;
    parts.push_back(call.pool->Text(text->Cut(found + mark.size(), end)));
    end = found;
  }
  parts.push_back(call.pool->Text(text->Cut(0, end)));
  std::reverse(parts.begin(), parts.end());
  return call.pool->MakeList(std::move(parts));
}

absl::StatusOr<Value> SplitLines(const Call& call) {
  ASSIGN_OR_RETURN(const TrackedText* text, call.Self());
  List lines;
  size_t begin = 0;
  while (begin < text->size() && !call.pool->exhausted()) {
    const size_t end = text->view().find_first_of("\r\n", begin);
    if (end == std::string_view::npos) break;
    lines.push_back(call.pool->Text(text->Cut(begin, end)));
    begin = end + (text->view().substr(end, 2) == "\r\n" ? 2 : 1);
  }
  if (begin < text->size()) lines.push_back(call.pool->Text(text->Cut(begin, text->size())));
  return call.pool->MakeList(std::move(lines));
}

// startswith and endswith; the argument may be a list of texts.
absl::StatusOr<Value> HasAffix(const Call& call, bool at_start) {
  ASSIGN_OR_RETURN(const TrackedText* text, call.Self());
  const Value* affix = call.Find(1, "prefix");
  if (affix == nullptr) return absl::InvalidArgumentError("startswith() without a text");
  const List affixes = affix->is(Kind::kList) ? *affix->list : List{*affix};
  for (const Value& each : affixes) {
    if (!each.is(Kind::kText)) return TypeError("is looked for in a text", each);
    const std::string_view view = each.text->view();
    if (at_start ? text->view().starts_with(view) : text->view().ends_with(view)) {
      return Value::Bool(true);
    }
  }
  return Value::Bool(false);
}

absl::StatusOr<Value> RemoveAffix(const Call& call, bool at_start) {
  ASSIGN_OR_RETURN(const TrackedText* text, call.Self());
  ASSIGN_OR_RETURN(const std::string_view affix, call.Text(1, "prefix", ""));
  const std::string_view view = text->view();
  if (at_start && view.starts_with(affix)) {
    return call.pool->Text(text->Cut(affix.size(), view.size()));
  }
  if (!at_start && view.ends_with(affix)) {
    return call.pool->Text(text->Cut(0, view.size() - affix.size()));
  }
  return call.arguments[0];
}

// Code points before the first place of the argument, or -1.
absl::StatusOr<Value> FindText(const Call& call) {
  ASSIGN_OR_RETURN(const TrackedText* text, call.Self());
  ASSIGN_OR_RETURN(const std::string_view wanted, call.Text(1, "sub", ""));
  const size_t found = text->view().find(wanted);
  if (found == std::string_view::npos) return Value::Int(-1);
  int64_t count = 0;
  for (size_t offset = 0; offset < found; ++count) NextCodePoint(text->view(), &offset);
  return Value::Int(count);
}

absl::StatusOr<Value> CountText(const Call& call) {
  ASSIGN_OR_RETURN(const TrackedText* text, call.Self());
  ASSIGN_OR_RETURN(const std::string_view wanted, call.Text(1, "sub", ""));
  if (wanted.empty()) return absl::InvalidArgumentError("count() of an empty text");
  int64_t count = 0;
  for (size_t at = text->view().find(wanted); at != std::string_view::npos; ++count) {
    at = text->view().find(wanted, at + wanted.size());
  }
  return Value::Int(count);
}

absl::StatusOr<TrackedText> JoinWith(Pool* pool, const TrackedText& glue, const Value& list,
                                     std::string_view attribute) {
  ASSIGN_OR_RETURN(const List parts, Elements(pool, list));
  TrackedText joined;
  for (size_t i = 0; i < parts.size() && joined.size() <= Pool::kLargestValue; ++i) {
    if (i > 0) joined.Append(glue);
    Value part = parts[i];
    if (!attribute.empty()) {
      ASSIGN_OR_RETURN(part, Attribute(part, attribute));
    }
    joined.Append(ToText(part, kOtherOrigin));
  }
  return joined;
}

absl::StatusOr<Value> JoinFilter(const Call& call) {
  const Value* glue = call.Find(1, "d");
  ASSIGN_OR_RETURN(const std::string_view attribute, call.Text(2, "attribute", ""));
  const TrackedText text = glue == nullptr ? TrackedText() : ToText(*glue, kOtherOrigin);
  ASSIGN_OR_RETURN(TrackedText joined, JoinWith(call.pool, text, call.arguments[0], attribute));
  return call.pool->Text(std::move(joined));
}

absl::StatusOr<Value> JoinMethod(const Call& call) {
  ASSIGN_OR_RETURN(const TrackedText* glue, call.Self());
  const Value* list = call.Find(1, "iterable");
  if (list == nullptr) return absl::InvalidArgumentError("join() without a list");
  ASSIGN_OR_RETURN(TrackedText joined, JoinWith(call.pool, *glue, *list, ""));
  return call.pool->Text(std::move(joined));
}

absl::StatusOr<Value> ToString(const Call& call) {
  return call.pool->Text(ToText(call.arguments[0], kOtherOrigin));
}

// Puts spaces before every line but the first (or before that, too); empty lines get none.
absl::StatusOr<Value> Indent(const Call& call) {
  ASSIGN_OR_RETURN(const TrackedText* text, call.Self());
  ASSIGN_OR_RETURN(const int64_t width, call.Int(1, "width", 4));
  const Value* first = call.Find(2, "first");
  const Value* blank = call.Find(3, "blank");
  if (width < 0 || width > 100) return absl::InvalidArgumentError("indent() by this much");
  const std::string spaces(static_cast<size_t>(width), ' ');
  TrackedText indented;
  for (size_t begin = 0; begin <= text->size() && indented.size() <= Pool::kLargestValue;) {
    const size_t newline = std::min(text->view().find('\n', begin), text->size());
    const bool wanted = begin > 0 || (first != nullptr && IsTrue(*first));
    const bool empty = newline == begin && !(blank != nullptr && IsTrue(*blank));
    if (wanted && !empty) indented.Append(spaces, kOtherOrigin);
    indented.Append(*text, begin, std::min(newline + 1, text->size()));
    begin = newline + 1;
  }
  return call.pool->Text(std::move(indented));
}

Builtin FindIn(const Table& table, std::string_view name) {
  const auto it = table.find(std::string(name));
  return it == table.end() ? nullptr : it->second;
}

}  // namespace

Builtin FindTextFilter(std::string_view name) {
  static const Table kTable = {
      {"trim", [](const Call& call) { return Strip(call, true, true); }},
      {"upper", [](const Call& call) { return ChangeCase(call, Casing::kUpper); }},
      {"lower", [](const Call& call) { return ChangeCase(call, Casing::kLower); }},
      {"capitalize", [](const Call& call) { return ChangeCase(call, Casing::kCapitalize); }},
      {"title", [](const Call& call) { return ChangeCase(call, Casing::kTitle); }},
      {"replace", Replace},
      {"join", JoinFilter},
      {"string", ToString},
      {"indent", Indent},
  };
  return FindIn(kTable, name);
}

Builtin FindTextMethod(std::string_view name) {
  static const Table kTable = {
      {"strip", [](const Call& call) { return Strip(call, true, true); }},
      {"lstrip", [](const Call& call) { return Strip(call, true, false); }},
      {"rstrip", [](const Call& call) { return Strip(call, false, true); }},
      {"upper", [](const Call& call) { return ChangeCase(call, Casing::kUpper); }},
      {"lower", [](const Call& call) { return ChangeCase(call, Casing::kLower); }},
      {"capitalize", [](const Call& call) { return ChangeCase(call, Casing::kCapitalize); }},
      {"title", [](const Call& call) { return ChangeCase(call, Casing::kTitle); }},
      {"replace", Replace},
      {"split", Split},
      {"rsplit", RightSplit},
      {"splitlines", SplitLines},
      {"startswith", [](const Call& call) { return HasAffix(call, true); }},
      {"endswith", [](const Call& call) { return HasAffix(call, false); }},
      {"removeprefix", [](const Call& call) { return RemoveAffix(call, true); }},
      {"removesuffix", [](const Call& call) { return RemoveAffix(call, false); }},
      {"find", FindText},
      {"count", CountText},
      {"join", JoinMethod},
  };
  return FindIn(kTable, name);
}

}  // namespace tessera::jinja
