#include "gateway/text/known_pattern.h"

#include "gateway/text/code_point_class.h"
#include "gateway/text/utf8.h"

namespace tessera {
namespace {

using Class = CodePointClass;

class Cutter {
 public:
  explicit Cutter(std::string_view text) : text_(text), classes_(CodePointClasses::Get()) {}

  // End of the match at `from`, which is inside of the text. All of GPT-2's alternatives:
  //   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  size_t Gpt2(size_t from) const {
    if (const size_t end = Contraction(from, /*ignore_case=*/false)) return end;
    const size_t at = from + (text_[from] == ' ' ? 1 : 0);
    if (at < text_.size()) {
      size_t next;
      const Class first = At(at, &next);
      if (first != Class::kSpace) return SkipRun(next, first);
    }
    return Space(from, /*lines=*/false);
  }

  // The same for Llama 3 and Qwen 2, which differ in `digits`:
  //   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|
  //    ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  template <int digits>
  size_t Cl100k(size_t from) const {
    if (const size_t end = Contraction(from, /*ignore_case=*/true)) return end;
    size_t next, after;
    const Class first = At(from, &next);
    if (first == Class::kLetter) return SkipRun(next, first);
    if (first == Class::kNumber) {
      for (int i = 1; i < digits && next < text_.size(); ++i, next = after) {
        if (At(next, &after) != first) break;
      }
      return next;
    }
    if (next < text_.size()) {
      const Class second = At(next, &after);
      if (second == Class::kLetter && !IsLine(from)) return SkipRun(after, second);
      if (second == Class::kOther && text_[from] == ' ') return SkipLines(SkipRun(after, second));
    }
    if (first == Class::kOther) return SkipLines(SkipRun(next, first));
    return Space(from, /*lines=*/true);
  }

 private:
  // Class of the code point at `at`, which ends at *next.
  Class At(size_t at, size_t* next) const {
    const auto byte = static_cast<uint8_t>(text_[at]);
    *next = at + 1;
    if (byte < 0x80) return classes_.OfAscii(byte);
    *next = at;
    return classes_.Of(NextCodePoint(text_, next));
  }

  size_t SkipRun(size_t at, Class run) const {
    size_t next;
    while (at < text_.size() && At(at, &next) == run) at = next;
    return at;
  }

  bool IsLine(size_t at) const { return text_[at] == '\r' || text_[at] == '\n'; }

  size_t SkipLines(size_t at) const {
    while (at < text_.size() && IsLine(at)) ++at;
    return at;
  }

  // (\s*[\r\n]+|)\s+(?!\S)|\s+ at white space: up to the last line break when lines count; else all
  // of it but, where something follows, the last; that one is left for the next word.
  size_t Space(size_t from, bool lines) const {
    size_t at = from, last = from, line_end = 0, next;
    while (at < text_.size() && At(at, &next) == Class::kSpace) {
      last = at;
      at = next;
      if (lines && IsLine(last)) line_end = at;
    }
    if (line_end > 0) return line_end;
    return at == text_.size() || last == from ? at : last;
  }

  // End of 's, 't, 're, 've, 'm, 'll or 'd; 0 where there is none.
  size_t Contraction(size_t from, bool ignore_case) const {
    if (text_[from] != '\'') return 0;
    const auto letter = [&](size_t at) {
      const char byte = at < text_.size() ? text_[at] : '\0';
      return ignore_case && byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte + 32) : byte;
    };
    switch (letter(from + 1)) {
      case 's':
      case 't':
      case 'm':
      case 'd':
        return from + 2;
      case 'r':
      case 'v':
        return letter(from + 2) == 'e' ? from + 3 : 0;
      case 'l':
        return letter(from + 2) == 'l' ? from + 3 : 0;
      default:
        // The long s is a lower case S.
        return ignore_case && text_.substr(from + 1, 2) == "\u017f" ? from + 3 : 0;
    }
  }

  std::string_view text_;
  const CodePointClasses& classes_;
};

}  // namespace

std::string_view RegexOf(KnownPattern known) {
  switch (known) {
    case KnownPattern::kGpt2:
      return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    case KnownPattern::kLlama3:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
             R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case KnownPattern::kQwen2:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
             R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  }
  return {};
}

std::optional<KnownPattern> FindKnownPattern(std::string_view onig) {
  for (const auto known : {KnownPattern::kGpt2, KnownPattern::kLlama3, KnownPattern::kQwen2}) {
    if (RegexOf(known) == onig) return known;
  }
  return std::nullopt;
}

void CutWords(KnownPattern known, std::string_view text, std::vector<std::string_view>* words) {
  const Cutter cutter(text);
  const auto cut = [&](auto end_of) {
    for (size_t at = 0; at < text.size();) {
      const size_t end = end_of(at);
      words->push_back(text.substr(at, end - at));
      at = end;
    }
  };
  switch (known) {
    case KnownPattern::kGpt2:
      return cut([&](size_t at) { return cutter.Gpt2(at); });
    case KnownPattern::kLlama3:
      return cut([&](size_t at) { return cutter.Cl100k<3>(at); });
    case KnownPattern::kQwen2:
      return cut([&](size_t at) { return cutter.Cl100k<1>(at); });
  }
}

}  // namespace tessera
