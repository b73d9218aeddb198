// Cuts text into the words that BPE works on, as tokenizer.json's pre_tokenizer says.
#ifndef TESSERA_GATEWAY_TEXT_PRE_TOKENIZER_H_
#define TESSERA_GATEWAY_TEXT_PRE_TOKENIZER_H_

#include <boost/json.hpp>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/text/known_pattern.h"
#include "gateway/text/pattern.h"

namespace tessera {

// Immutable: Split may be called from any thread at any time.
class PreTokenizer {
 public:
  // Takes the value of "pre_tokenizer": a ByteLevel, a Split, a Digits, or a Sequence of them; the
  // last must be a ByteLevel. Errors: UNIMPLEMENTED naming what is not supported.
  static absl::StatusOr<PreTokenizer> FromJson(const boost::json::value& json);

  // Words of one text, in order. `text` must be UTF-8. The words are views of `text`, or of strings
  // that are put into *storage. Errors: those of PatternScan::Next.
  absl::StatusOr<std::vector<std::string_view>> Split(std::string_view text,
                                                      std::deque<std::string>* storage) const;

 private:
  struct Step {
    // Cuts at the matches of one of these; both absent: cuts at digits, or nothing.
    std::optional<KnownPattern> known;  // nothing is dropped
    std::optional<Pattern> pattern;
    bool drop_matches = false;
    bool drop_others = false;
    bool cut_digits = false;
    bool join_digits = false;  // a row of digits stays together
    bool add_prefix_space = false;
  };

  static absl::StatusOr<Step> StepFromJson(const boost::json::object& json);
  static absl::Status AddSteps(const boost::json::value& json, PreTokenizer* result);
  static absl::Status RunPattern(const Step& step, const std::vector<std::string_view>& words,
                                 std::vector<std::string_view>* out);

  std::vector<Step> steps_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_PRE_TOKENIZER_H_
