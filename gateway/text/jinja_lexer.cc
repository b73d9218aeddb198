#include "gateway/text/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/utf8.h"

namespace tessera::jinja {
namespace {

using Kind = Token::Kind;

constexpr std::array<std::string_view, 27> kOperators = {
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[", "]",
    "(",  ")",  "{",  "}",  ">",  "<",  "=", ".", ":", "|", ",", ";", "!"};

bool IsSpace(char c) { return c == ' ' || (c >= 9 && c <= 13); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) {
    // One kind of line end; a single one at the template's end does not count.
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] != '\r') {
        source_.push_back(source[i]);
      } else if (source.substr(i + 1, 1) != "\n") {
        source_.push_back('\n');
      }
    }
    if (source_.ends_with('\n')) source_.pop_back();
  }

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      const size_t tag = FindTag();
      std::string text = source_.substr(at_, tag - at_);
      if (tag < source_.size()) StripBefore(tag, &text);
      if (!text.empty()) Add(Kind::kText, std::move(text));
      line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + tag, '\n'));
      at_ = tag;
      if (at_ < source_.size()) RETURN_IF_ERROR(Tag());
    }
    Add(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(Concat("chat template, line ", line_, ": ", what));
  }

  std::string_view Rest(size_t length) const {
    return std::string_view(source_).substr(at_, length);
  }

  void Add(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  size_t FindTag() const {
    for (size_t i = at_; i + 1 < source_.size(); ++i) {
      const char next = source_[i + 1];
      if (source_[i] == '{' && (next == '{' || next == '%' || next == '#')) return i;
    }
    return source_.size();
  }

  // A minus takes all white space before the tag; lstrip_blocks takes what stands between a line's
  // start and a block or comment, unless a plus keeps it.
  void StripBefore(size_t tag, std::string* text) const {
    const char mark = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    if (mark == '-') {
      while (!text->empty() && IsSpace(text->back())) text->pop_back();
      return;
    }
    if (mark == '+' || source_[tag + 1] == '{') return;
    const size_t newline = text->rfind('\n');
    if (newline == std::string::npos && !line_start_) return;
    const size_t line = newline == std::string::npos ? 0 : newline + 1;
    if (std::all_of(text->begin() + line, text->end(), IsSpace)) text->resize(line);
  }

  absl::Status Tag() {
    const char kind = source_[at_ + 1];
    at_ += 2;
    if (kind == '#') return Comment();
    if (Rest(1) == "-" || (kind == '%' && Rest(1) == "+")) ++at_;
    Add(kind == '{' ? Kind::kPrintBegin : Kind::kBlockBegin, "");
    const std::string_view close = kind == '{' ? "}}" : "%}";
    size_t depth = 0;  // of brackets: inside of them no tag ends
    while (true) {
      SkipSpace();
      if (at_ >= source_.size()) return Error("a tag has no end");
      if (depth == 0 && CloseTag(close, kind == '%')) break;
      const size_t before = tokens_.size();
      RETURN_IF_ERROR(OneToken());
      const Token& token = tokens_[before];
      if (token.kind != Kind::kOperator) continue;
      if (token.text == "(" || token.text == "[" || token.text == "{") ++depth;
      if (token.text == ")" || token.text == "]" || token.text == "}") depth -= depth > 0;
    }
    return absl::OkStatus();
  }

  void SkipSpace() {
    for (; at_ < source_.size() && IsSpace(source_[at_]); ++at_) line_ += source_[at_] == '\n';
  }

  bool CloseTag(std::string_view close, bool block) {
    const std::string_view next = Rest(3);
    const bool marked = next.size() == 3 && (next[0] == '-' || (next[0] == '+' && block)) &&
                        next.substr(1) == close;
    if (!marked && next.substr(0, 2) != close) return false;
    Add(block ? Kind::kBlockEnd : Kind::kPrintEnd, "");
    at_ += marked ? 3 : 2;
    AfterTag(marked ? next[0] : ' ', block);
    return true;
  }

  // A minus takes all white space behind the tag; trim_blocks the line end behind a block.
  void AfterTag(char mark, bool block) {
    const size_t begin = at_;
    if (mark == '-') {
      SkipSpace();
    } else if (mark != '+' && block && Rest(1) == "\n") {
      ++at_;
      ++line_;
    }
    line_start_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  absl::Status Comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return Error("a comment has no end");
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + end, '\n'));
    const char mark = end > at_ ? source_[end - 1] : ' ';
    at_ = end + 2;
    AfterTag(mark, true);
    return absl::OkStatus();
  }

  absl::Status OneToken() {
    const char first = source_[at_];
    if (first == '"' || first == '\'') return String(first);
    const size_t begin = at_;
    if (IsNameStart(first)) {
      while (at_ < source_.size() && (IsNameStart(source_[at_]) || IsDigit(source_[at_]))) ++at_;
      Add(Kind::kName, source_.substr(begin, at_ - begin));
      return absl::OkStatus();
    }
    if (IsDigit(first)) return Number();
    for (const std::string_view symbol : kOperators) {
      if (Rest(symbol.size()) != symbol) continue;
      at_ += symbol.size();
      Add(Kind::kOperator, std::string(symbol));
      return absl::OkStatus();
    }
    return Error(Concat("unexpected character '", Rest(1), "'"));
  }

  // A number right behind a dot is a subscript: "a.0.1" has no fraction.
  absl::Status Number() {
    const size_t begin = at_;
    const bool subscript = !tokens_.empty() && tokens_.back().text == ".";
    const auto digit_at = [&](size_t at) { return at < source_.size() && IsDigit(source_[at]); };
    const auto skip_digits = [&] {
      while (digit_at(at_)) ++at_;
    };
    skip_digits();
    Kind kind = Kind::kInt;
    if (!subscript && Rest(1) == "." && digit_at(at_ + 1)) {
      kind = Kind::kFloat;
      ++at_;
      skip_digits();
    }
    if (!subscript && (Rest(1) == "e" || Rest(1) == "E")) {
      const bool sign =
          at_ + 1 < source_.size() && (source_[at_ + 1] == '-' || source_[at_ + 1] == '+');
      if (digit_at(at_ + 1 + sign)) {
        kind = Kind::kFloat;
        at_ += 1 + sign;
        skip_digits();
      }
    }
    Add(kind, source_.substr(begin, at_ - begin));
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    std::string text;
    for (++at_; at_ < source_.size() && source_[at_] != quote;) {
      line_ += source_[at_] == '\n';
      if (source_[at_] == '\\' && at_ + 1 < source_.size()) {
        RETURN_IF_ERROR(Escape(&text));
      } else {
        text.push_back(source_[at_++]);
      }
    }
    if (at_ >= source_.size()) return Error("a string has no end");
    ++at_;
    Add(Kind::kString, std::move(text));
    return absl::OkStatus();
  }

  // Python's escapes; an unknown one stays as it is.
  absl::Status Escape(std::string* text) {
    constexpr std::string_view kNames = "nrtbfav\\'\"";
    constexpr std::string_view kMeanings = "\n\r\t\b\f\a\v\\'\"";
    const char name = source_[at_ + 1];
    at_ += 2;
    if (const size_t known = kNames.find(name); known != std::string_view::npos) {
      text->push_back(kMeanings[known]);
      return absl::OkStatus();
    }
    if (name == '\n') return absl::OkStatus();
    if (name == '0') return AddCodePoint(0, text);
    const size_t length = name == 'x' ? 2 : name == 'u' ? 4 : name == 'U' ? 8 : 0;
    if (length == 0) {
      Extend(text, "\\", std::string_view(&name, 1));
      return absl::OkStatus();
    }
    const std::string digits(Rest(length));
    at_ += digits.size();
    if (digits.size() < length ||
        digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
      return Error("a damaged escape in a string");
    }
    return AddCodePoint(std::stoul(digits, nullptr, 16), text);
  }

  absl::Status AddCodePoint(unsigned long code_point, std::string* text) {
    if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point < 0xe000)) {
      return Error("an escape in a string is no character");
    }
    AppendUtf8(static_cast<char32_t>(code_point), text);
    return absl::OkStatus();
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;  // whether the text at at_ starts a line
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Lex(std::string_view source) {
  const size_t invalid = FindInvalidUtf8(source);
  if (invalid != std::string_view::npos) {
    return absl::InvalidArgumentError(Concat("chat template: byte ", invalid, " is not UTF-8"));
  }
  return Lexer(source).Run();
}

}  // namespace tessera::jinja
