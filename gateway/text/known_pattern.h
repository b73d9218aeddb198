// The pre-tokenizer patterns of well-known models, matched by hand: the same words as from PCRE2,
// several times faster.
#ifndef TESSERA_GATEWAY_TEXT_KNOWN_PATTERN_H_
#define TESSERA_GATEWAY_TEXT_KNOWN_PATTERN_H_

#include <optional>
#include <string_view>
#include <vector>

namespace tessera {

enum class KnownPattern {
  kGpt2,    // also ByteLevel's own, and so SmolLM2's
  kLlama3,  // numbers in threes
  kQwen2,   // every digit alone
};

// The regular expression, in Oniguruma's syntax.
std::string_view RegexOf(KnownPattern known);

// The known pattern that `onig` is, letter for letter.
std::optional<KnownPattern> FindKnownPattern(std::string_view onig);

// Appends the matches of `known` in `text`, which must be UTF-8, in order: they cover it.
void CutWords(KnownPattern known, std::string_view text, std::vector<std::string_view>* words);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_KNOWN_PATTERN_H_
