#define PCRE2_CODE_UNIT_WIDTH 8
#include "gateway/text/pattern.h"

#include <pcre2.h>

#include <array>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"

namespace tessera {
namespace {

constexpr size_t kFirstStack = 64 << 10;
constexpr size_t kLargestStack = 8 << 20;

// White_Space, as Oniguruma's \s has it; PCRE2's own adds U+180E.
constexpr std::string_view kWhiteSpace =
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";
constexpr std::string_view kWord = "\\p{L}\\p{M}\\p{N}\\p{Pc}";
constexpr std::array<std::string_view, 10> kScripts = {"Han",    "Hiragana", "Katakana", "Hangul",
                                                       "Latin",  "Greek",    "Cyrillic", "Arabic",
                                                       "Hebrew", "Thai"};

// Walks an Oniguruma pattern and writes PCRE2's.
class Rewriter {
 public:
  explicit Rewriter(std::string_view onig) : onig_(onig) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < onig_.size()) {
      const char letter = onig_[at_];
      if (letter == '\\') {
        RETURN_IF_ERROR(Escape());
        continue;
      }
      if (letter == '[' && in_class_ && onig_.substr(at_, 2) != "[:") return Refuse("nested class");
      if (in_class_ && onig_.substr(at_, 2) == "&&") return Refuse("class intersection");
      if (letter == '[') {
        in_class_ = true;
      } else if (letter == ']') {
        in_class_ = false;
      }
      pcre_.push_back(letter);
      ++at_;
    }
    return pcre_;
  }

 private:
  absl::Status Refuse(std::string_view what) const {
    return absl::UnimplementedError(
        Concat("regular expression \"", onig_, "\": ", what, " is not supported"));
  }

  absl::Status Class(std::string_view members, bool negated) {
    if (in_class_ && negated) return Refuse("a negated escape inside a class");
    if (in_class_) {
      pcre_ += members;
    } else {
      Extend(&pcre_, negated ? "[^" : "[", members, "]");
    }
    return absl::OkStatus();
  }

  absl::Status Escape() {
    if (at_ + 1 >= onig_.size()) return Refuse("a backslash at the end");
    const char letter = onig_[at_ + 1];
    if (letter == 'p' || letter == 'P') return Property();
    at_ += 2;
    if (letter == 's' || letter == 'S') return Class(kWhiteSpace, letter == 'S');
    if (letter == 'w' || letter == 'W') return Class(kWord, letter == 'W');
    constexpr std::string_view kSame = "dDnrtfvexbBAzZ";
    const bool is_word = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                         (letter >= '0' && letter <= '9');
    if (is_word && kSame.find(letter) == std::string_view::npos) {
      return Refuse(Concat("\\", std::string_view(&letter, 1)));
    }
    Extend(&pcre_, "\\", std::string_view(&letter, 1));
    return absl::OkStatus();
  }

  // \p{L}, \p{^Lu}, \P{N}, \pL; scripts get PCRE2's prefix that leaves Script_Extensions out.
  absl::Status Property() {
    const size_t close = onig_.find('}', at_);
    if (onig_.substr(at_ + 2, 1) != "{" || close == std::string_view::npos) {
      return Refuse("\\p without braces");
    }
    const std::string_view name = onig_.substr(at_ + 3, close - at_ - 3);
    const std::string_view bare = name.substr(name.substr(0, 1) == "^" ? 1 : 0);
    bool script = false;
    for (const std::string_view known : kScripts) script = script || known == bare;
    if (!script && (bare.empty() || bare.size() > 2)) return Refuse(Concat("\\p{", name, "}"));
    Extend(&pcre_, onig_.substr(at_, 3), name.substr(0, name.size() - bare.size()),
           script ? "sc:" : "", bare, "}");
    at_ = close + 1;
    return absl::OkStatus();
  }

  std::string_view onig_;
  std::string pcre_;
  size_t at_ = 0;
  bool in_class_ = false;
};

std::string Message(int code) {
  std::array<PCRE2_UCHAR, 256> text;
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

void Pattern::FreeCode::operator()(pcre2_code* code) const { pcre2_code_free(code); }

absl::StatusOr<Pattern> Pattern::Compile(std::string_view onig) {
  ASSIGN_OR_RETURN(const std::string pcre, Rewriter(onig).Run());
  std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  // In Ruby's syntax ^ and $ always match at lines.
  constexpr uint32_t kFlags = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE;
  Pattern pattern(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre.data()), pcre.size(), kFlags,
                                &error, &offset, context.get()));
  if (pattern.code_ == nullptr) {
    return absl::InvalidArgumentError(Concat("regular expression \"", onig, "\" (as \"", pcre,
                                             "\") at ", offset, ": ", Message(error)));
  }
  error = pcre2_jit_compile(pattern.code_.get(), PCRE2_JIT_COMPLETE);
  if (error != 0) {
    return absl::InvalidArgumentError(
        Concat("regular expression \"", onig, "\": ", Message(error)));
  }
  return pattern;
}

void PatternScan::Free::operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
void PatternScan::Free::operator()(pcre2_match_context* context) const {
  pcre2_match_context_free(context);
}
void PatternScan::Free::operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }

PatternScan::PatternScan(const Pattern& pattern)
    : code_(pattern.code_.get()), match_(pcre2_match_data_create(1, nullptr)) {}

// Most patterns live with the 32 KiB of machine stack that PCRE2 uses by itself.
bool PatternScan::GrowStack() {
  if (stack_ != nullptr) return false;
  stack_.reset(pcre2_jit_stack_create(kFirstStack, kLargestStack, nullptr));
  context_.reset(pcre2_match_context_create(nullptr));
  pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  return true;
}

absl::StatusOr<bool> PatternScan::Next(std::string_view text, size_t from, Match* match) {
  int found;
  do {
    // Skips all checks of its arguments; Compile made sure that the code is there.
    found = pcre2_jit_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, 0,
                            match_.get(), context_.get());
  } while (found == PCRE2_ERROR_JIT_STACKLIMIT && GrowStack());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) return absl::ResourceExhaustedError("pre-tokenizer: " + Message(found));
  const size_t* borders = pcre2_get_ovector_pointer(match_.get());
  *match = {borders[0], borders[1]};
  return true;
}

}  // namespace tessera
