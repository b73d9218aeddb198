// Token ids of one answer to text, piece by piece as they arrive.
#ifndef TESSERA_GATEWAY_TEXT_STREAM_DECODER_H_
#define TESSERA_GATEWAY_TEXT_STREAM_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/text/stop_matcher.h"
#include "gateway/text/tokenizer.h"
#include "gateway/text/utf8.h"

namespace tessera {

// Gives text that is final: never half a code point, never the start of what may become a stop
// string. The concatenation of all it returned does not depend on how the ids were grouped.
// One object an answer; not thread-safe.
class StreamDecoder {
 public:
  // `tokenizer` must outlive this object. Empty stop strings are ignored. With `skip_special`,
  // special tokens give no text.
  StreamDecoder(const Tokenizer* tokenizer, std::vector<std::string> stop_strings,
                bool skip_special = true);

  // Takes one more token and returns the text that became final, perhaps none. After a stop string
  // matched every call returns "". With `armed` false a stop string that ends in this token's text
  // does not count.
  std::string Feed(uint32_t id, bool armed = true);

  // Ends the answer and returns what was held back; an unfinished code point becomes U+FFFD.
  // Call it once. Returns "" after a stop string matched.
  std::string Finish();

  // Bytes of all tokens' text so far, with what is held back and what a stop string cut off; an
  // unfinished code point counts as one.
  size_t decoded_bytes() const { return decoded_bytes_ + (repair_.unfinished() ? 1 : 0); }

  // Code points of that text, without an unfinished one: where the next token's text begins.
  size_t decoded_letters() const { return decoded_letters_; }

  // True once a stop string was seen; the text ends just before it.
  bool stopped() const { return matched_.has_value(); }

  // The stop string that matched.
  const std::optional<std::string>& matched_stop() const { return matched_; }

 private:
  std::string Advance(std::string_view text, bool armed);

  const Tokenizer* tokenizer_;
  bool skip_special_;
  Utf8Repair repair_;
  StopMatcher stops_;
  size_t decoded_bytes_ = 0;
  size_t decoded_letters_ = 0;
  std::optional<std::string> matched_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_STREAM_DECODER_H_
