#include "gateway/text/run_text.h"

#include <algorithm>

#include "absl/status/status.h"
#include "gateway/text/concat.h"
#include "gateway/text/utf8.h"

namespace tessera {

absl::StatusOr<RunText> RunText::Join(std::span<const TextRun> runs) {
  RunText result;
  if (runs.size() == 1) result.borrowed_ = runs[0].text;
  size_t size = 0;
  for (const TextRun& run : runs) {
    if (runs.size() > 1) result.owned_ += run.text;
    const ByteRange range = {size, size + run.text.size()};
    size = range.end;
    if (run.special != SpecialTokens::kRecognised || run.text.empty()) continue;
    std::vector<ByteRange>& recognised = result.recognised_;
    if (!recognised.empty() && recognised.back().end == range.begin) {
      recognised.back().end = range.end;
    } else {
      recognised.push_back(range);
    }
  }
  const size_t invalid = FindInvalidUtf8(result.text());
  if (invalid != std::string_view::npos) {
    return absl::InvalidArgumentError(
        Concat("the text is not UTF-8: byte ", invalid, " is not part of a code point"));
  }
  return result;
}

std::vector<RunText::Piece> RunText::Cut(ByteRange range) const {
  std::vector<Piece> pieces;
  size_t at = range.begin;
  for (const ByteRange& recognised : recognised_) {
    if (recognised.end <= at || recognised.begin >= range.end) continue;
    if (recognised.begin > at) pieces.push_back({{at, recognised.begin}, false});
    const size_t begin = std::max(at, recognised.begin);
    at = std::min(range.end, recognised.end);
    pieces.push_back({{begin, at}, true});
  }
  if (at < range.end) pieces.push_back({{at, range.end}, false});
  return pieces;
}

}  // namespace tessera
