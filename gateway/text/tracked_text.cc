#include "gateway/text/tracked_text.h"

#include <algorithm>

namespace tessera {

void TrackedText::Append(std::string_view text, int origin) {
  if (text.empty()) return;
  bytes_ += text;
  if (!runs_.empty() && runs_.back().origin == origin) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), origin});
  }
}

void TrackedText::Append(const TrackedText& text) { Append(text, 0, text.size()); }

void TrackedText::Append(const TrackedText& text, size_t begin, size_t end) {
  auto run = std::upper_bound(text.runs_.begin(), text.runs_.end(), begin,
                              [](size_t offset, const Run& each) { return offset < each.end; });
  while (begin < end && run != text.runs_.end()) {
    const size_t stop = std::min(end, run->end);
    Append(text.view().substr(begin, stop - begin), run->origin);
    begin = stop;
    ++run;
  }
}

TrackedText TrackedText::Cut(size_t begin, size_t end) const {
  TrackedText cut;
  cut.Append(*this, begin, end);
  return cut;
}

int TrackedText::OriginAt(size_t offset) const {
  return std::upper_bound(runs_.begin(), runs_.end(), offset,
                          [](size_t at, const Run& each) { return at < each.end; })
      ->origin;
}

}  // namespace tessera
