// Regular expressions of tokenizer files (Oniguruma's Ruby syntax), run by PCRE2's compiler.
#ifndef TESSERA_GATEWAY_TEXT_PATTERN_H_
#define TESSERA_GATEWAY_TEXT_PATTERN_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace tessera {

// A compiled pattern. Immutable: any number of PatternScan use it at a time.
class Pattern {
 public:
  // Rewrites what Oniguruma and PCRE2 take differently (\s, \w, scripts) and compiles.
  // Errors: UNIMPLEMENTED for what cannot be rewritten (names it), INVALID_ARGUMENT when PCRE2
  // refuses the pattern (with its words and the offset).
  static absl::StatusOr<Pattern> Compile(std::string_view onig);

 private:
  friend class PatternScan;
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };
  explicit Pattern(pcre2_real_code_8* code) : code_(code) {}

  std::unique_ptr<pcre2_real_code_8, FreeCode> code_;
};

// The memory that matching needs. Cheap to make, one per call; not thread-safe.
class PatternScan {
 public:
  struct Match {
    size_t begin;
    size_t end;
  };

  // `pattern` must outlive this object.
  explicit PatternScan(const Pattern& pattern);

  // The first match in `text` at or after `from`; nothing before `from` may match, but
  // look-behinds see it. False when there is none. `text` must be UTF-8 and `from` a border of code
  // points. Errors: RESOURCE_EXHAUSTED when the pattern needs more than 8 MiB of stack.
  absl::StatusOr<bool> Next(std::string_view text, size_t from, Match* match);

 private:
  struct Free {
    void operator()(pcre2_real_match_data_8* match) const;
    void operator()(pcre2_real_match_context_8* context) const;
    void operator()(pcre2_real_jit_stack_8* stack) const;
  };
  bool GrowStack();

  const pcre2_real_code_8* code_;
  std::unique_ptr<pcre2_real_match_data_8, Free> match_;
  std::unique_ptr<pcre2_real_jit_stack_8, Free> stack_;
  std::unique_ptr<pcre2_real_match_context_8, Free> context_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_PATTERN_H_
