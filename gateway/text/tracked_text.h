// Text that remembers for each of its bytes where it came from.
#ifndef TESSERA_GATEWAY_TEXT_TRACKED_TEXT_H_
#define TESSERA_GATEWAY_TEXT_TRACKED_TEXT_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// A string and its runs of bytes of one origin. What is cut out of it or joined to it keeps its
// origins. Immutable once shared; plain value otherwise.
class TrackedText {
 public:
  struct Run {
    size_t end;  // offset behind its last byte; it begins where the run before it ends
    int origin;
  };

  TrackedText() = default;
  TrackedText(std::string_view text, int origin) { Append(text, origin); }

  void Append(std::string_view text, int origin);
  void Append(const TrackedText& text);
  // Appends bytes [begin, end) of `text`.
  void Append(const TrackedText& text, size_t begin, size_t end);

  // Bytes [begin, end).
  TrackedText Cut(size_t begin, size_t end) const;

  // Origin of the byte at `offset`, which must be below size().
  int OriginAt(size_t offset) const;

  std::string_view view() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  const std::vector<Run>& runs() const { return runs_; }

 private:
  std::string bytes_;
  std::vector<Run> runs_;  // neighbours differ in origin, none is empty
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_TRACKED_TEXT_H_
