// Finds the first of several stop strings in a text that arrives in pieces.
#ifndef TESSERA_GATEWAY_TEXT_STOP_MATCHER_H_
#define TESSERA_GATEWAY_TEXT_STOP_MATCHER_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// The match that ends first wins; of those that end together, the longest. So the answer does not
// depend on how the text was cut. Not thread-safe.
class StopMatcher {
 public:
  // Empty stop strings are ignored.
  explicit StopMatcher(std::vector<std::string> stop_strings);

  // Takes more text; appends to *final_text what can no longer be part of a match. Returns the stop
  // string once one matched: *final_text then ends just before it, and no more text may come. With
  // `armed` false a match that ends in `text` does not count.
  std::optional<std::string> Append(std::string_view text, std::string* final_text,
                                    bool armed = true);

  // What is held back: the start of a stop string that did not come.
  std::string TakeHeld();

 private:
  // One stop string with its Knuth-Morris-Pratt failure table.
  struct Pattern {
    std::string text;
    std::vector<size_t> failure;
    size_t matched = 0;  // letters of `text` that the stream's end spells
  };

  std::vector<Pattern> patterns_;
  std::string held_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_STOP_MATCHER_H_
