// Tokens that are found in the text before any pre-tokenizer runs: tokenizer.json's added_tokens.
#ifndef TESSERA_GATEWAY_TEXT_ADDED_TOKENS_H_
#define TESSERA_GATEWAY_TEXT_ADDED_TOKENS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct AddedToken {
  uint32_t id = 0;
  std::string text;
  bool special = false;      // only found where special tokens are recognised
  bool normalized = false;   // looked for in the normalized text, not in the raw one
  bool strip_left = false;   // takes the white space before it along
  bool strip_right = false;  // and behind it
  bool single_word = false;  // only where no word character stands beside it
};

// Bytes [begin, end) of a text.
struct ByteRange {
  size_t begin;
  size_t end;
};

// Finds added tokens of one kind, leftmost first and of those the longest. Immutable, thread-safe.
class AddedTokens {
 public:
  // Tokens with an empty text are left out.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // A stretch of the text: one added token, or text without any.
  struct Part {
    std::optional<uint32_t> id;
    ByteRange range;
  };

  // Cuts `text` (UTF-8) into parts that cover it. `recognised`: the ranges, sorted and not
  // touching, that a special token must lie in as a whole.
  std::vector<Part> Split(std::string_view text, std::span<const ByteRange> recognised) const;

 private:
  // The first place from `at` on where a token may start, or the text's size.
  size_t NextStart(std::string_view text, size_t at) const;
  // The longest token at text[at], or null.
  const AddedToken* Longest(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;  // by first byte, longest first
  // Range of tokens_ for every first byte.
  std::array<ByteRange, 256> by_first_byte_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_ADDED_TOKENS_H_
