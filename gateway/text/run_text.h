// The joined text of runs, with the stretches in which special tokens count.
#ifndef TESSERA_GATEWAY_TEXT_RUN_TEXT_H_
#define TESSERA_GATEWAY_TEXT_RUN_TEXT_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/text/added_tokens.h"
#include "gateway/text/tokenizer.h"

namespace tessera {

// Borrows the text of a single run, owns the joined text of several.
class RunText {
 public:
  // Errors: INVALID_ARGUMENT naming the offset of the first byte that is not UTF-8.
  static absl::StatusOr<RunText> Join(std::span<const TextRun> runs);

  std::string_view text() const { return owned_.empty() ? borrowed_ : owned_; }

  // Sorted, not touching.
  const std::vector<ByteRange>& recognised() const { return recognised_; }

  // The pieces of `range` that lie wholly inside or wholly outside of recognised().
  struct Piece {
    ByteRange range;
    bool recognised;
  };
  std::vector<Piece> Cut(ByteRange range) const;

 private:
  std::string_view borrowed_;
  std::string owned_;
  std::vector<ByteRange> recognised_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_RUN_TEXT_H_
