// How values become text: str(), repr() and json.dumps(), as Python writes them.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "gateway/text/jinja_value.h"
#include "gateway/text/utf8.h"

namespace tessera::jinja {
namespace {

using Kind = Value::Kind;

std::string Hex(const char* format, unsigned value) {
  std::array<char, 16> buffer;
  std::snprintf(buffer.data(), buffer.size(), format, value);
  return buffer.data();
}

// repr() of a string: single quotes, unless only they occur in it.
void AppendRepr(const TrackedText& text, int origin, TrackedText* out) {
  const std::string_view view = text.view();
  const char quote =
      view.find('\'') != std::string_view::npos && view.find('"') == std::string_view::npos ? '"'
                                                                                            : '\'';
  const std::string_view quotes(&quote, 1);
  out->Append(quotes, origin);
  for (size_t i = 0; i < view.size(); ++i) {
    const char letter = view[i];
    const int from = text.OriginAt(i);
    if (letter == quote || letter == '\\') {
      out->Append("\\", from);
      out->Append(view.substr(i, 1), from);
    } else if (letter == '\n') {
      out->Append("\\n", from);
    } else if (letter == '\r') {
      out->Append("\\r", from);
    } else if (letter == '\t') {
      out->Append("\\t", from);
    } else if (static_cast<uint8_t>(letter) < 0x20 || letter == 0x7f) {
      out->Append(Hex("\\x%02x", static_cast<uint8_t>(letter)), from);
    } else {
      out->Append(view.substr(i, 1), from);
    }
  }
  out->Append(quotes, origin);
}

void AppendText(const Value& value, int origin, bool quoted, TrackedText* out) {
  switch (value.kind) {
    case Kind::kUndefined:
      return;
    case Kind::kNone:
      return out->Append("None", origin);
    case Kind::kBool:
      return out->Append(value.boolean ? "True" : "False", origin);
    case Kind::kInt:
      return out->Append(std::to_string(value.integer), origin);
    case Kind::kFloat:
      return out->Append(FloatText(value.number), origin);
    case Kind::kText:
      return quoted ? AppendRepr(*value.text, origin, out) : out->Append(*value.text);
    case Kind::kList: {
      std::string_view before = "[";
      for (const Value& entry : *value.list) {
        out->Append(before, origin);
        AppendText(entry, origin, true, out);
        before = ", ";
      }
      return out->Append(value.list->empty() ? "[]" : "]", origin);
    }
    case Kind::kNamespace:
      return out->Append("<Namespace>", origin);
    case Kind::kMap: {
      std::string_view before = "{";
      for (const auto& [key, entry] : *value.map) {
        out->Append(before, origin);
        AppendRepr(*key, origin, out);
        out->Append(": ", origin);
        AppendText(entry, origin, true, out);
        before = ", ";
      }
      return out->Append(value.map->empty() ? "{}" : "}", origin);
    }
  }
}

// json.dumps.
class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, int origin, TrackedText* out)
      : style_(style), origin_(origin), out_(out) {}

  void Write(const Value& value) {
    // Indents and separators of any length may make much of little.
    if (out_->size() > Pool::kLargestValue) return;
    switch (value.kind) {
      case Kind::kUndefined:
      case Kind::kNone:
        return Put("null");
      case Kind::kBool:
        return Put(value.boolean ? "true" : "false");
      case Kind::kText:
        return String(*value.text);
      case Kind::kList:
        return WriteList(*value.list);
      case Kind::kMap:
        return WriteMap(*value.map);
      default:
        return out_->Append(ToText(value, origin_));
    }
  }

 private:
  void Put(std::string_view text) { out_->Append(text, origin_); }

  void Line() {
    if (style_.indent < 0) return;
    Put("\n");
    Put(std::string(static_cast<size_t>(style_.indent) * depth_, ' '));
  }

  // Between two entries.
  void Separate() {
    Put(style_.separator);
    Line();
  }

  void WriteList(const List& list) {
    if (list.empty()) return Put("[]");
    Put("[");
    ++depth_;
    Line();
    for (size_t i = 0; i < list.size(); ++i) {
      if (i > 0) Separate();
      Write(list[i]);
    }
    --depth_;
    Line();
    Put("]");
  }

  void WriteMap(Map map) {
    if (map.empty()) return Put("{}");
    if (style_.sort_keys) {
      std::stable_sort(map.begin(), map.end(), [](const auto& a, const auto& b) {
        return a.first->view() < b.first->view();
      });
    }
    Put("{");
    ++depth_;
    Line();
    for (size_t i = 0; i < map.size(); ++i) {
      if (i > 0) Separate();
      String(*map[i].first);
      Put(style_.colon);
      Write(map[i].second);
    }
    --depth_;
    Line();
    Put("}");
  }

  void String(const TrackedText& text) {
    Put("\"");
    size_t offset = 0;
    while (offset < text.size()) {
      const size_t begin = offset;
      const char32_t letter = NextCodePoint(text.view(), &offset);
      const std::string escaped = Escape(letter);
      if (escaped.empty()) {
        out_->Append(text, begin, offset);
      } else {
        out_->Append(escaped, text.OriginAt(begin));
      }
    }
    Put("\"");
  }

  // Empty when the letter stands for itself.
  std::string Escape(char32_t letter) const {
    constexpr std::string_view kLetters = "\"\\\n\r\t\b\f";
    constexpr std::string_view kEscapes = "\"\\nrtbf";
    if (letter < 0x80) {
      const size_t at = kLetters.find(static_cast<char>(letter));
      if (at != std::string_view::npos) return {'\\', kEscapes[at]};
    }
    if (letter < 0x20) return Hex("\\u%04x", letter);
    if (!style_.ascii || letter < 0x7f) return "";
    if (letter < 0x10000) return Hex("\\u%04x", letter);
    const unsigned rest = letter - 0x10000;
    return Hex("\\u%04x", 0xd800 + (rest >> 10)) + Hex("\\u%04x", 0xdc00 + (rest & 0x3ff));
  }

  const JsonStyle& style_;
  int origin_;
  TrackedText* out_;
  size_t depth_ = 0;
};

}  // namespace

TrackedText ToText(const Value& value, int origin) {
  TrackedText text;
  AppendText(value, origin, false, &text);
  return text;
}

TrackedText ToJson(const Value& value, const JsonStyle& style, int origin) {
  TrackedText text;
  JsonWriter(style, origin, &text).Write(value);
  return text;
}

}  // namespace tessera::jinja
