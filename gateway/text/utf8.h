// UTF-8: checking, walking, repairing a stream.
#ifndef TESSERA_GATEWAY_TEXT_UTF8_H_
#define TESSERA_GATEWAY_TEXT_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace tessera {

// Offset of the first byte that is not part of a well-formed code point (surrogates and overlong
// forms are not), or npos when all of `text` is UTF-8.
size_t FindInvalidUtf8(std::string_view text);

// Behind the ASCII bytes that start at `offset`, in steps of eight: the end of `text` or at most
// seven bytes short of another byte.
inline size_t SkipAscii(std::string_view text, size_t offset) {
  while (offset + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + offset, 8);
    if ((word & 0x8080808080808080u) != 0) break;
    offset += 8;
  }
  return offset;
}

// The code point at text[*offset], which must be UTF-8; moves *offset behind it.
inline char32_t NextCodePoint(std::string_view text, size_t* offset) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[*offset + i]); };
  const uint8_t first = byte(0);
  char32_t code_point = first;
  size_t length = 1;
  if (first >= 0xf0) {
    code_point = (first & 0x07u) << 18 | (byte(1) & 0x3fu) << 12 | (byte(2) & 0x3fu) << 6 |
                 (byte(3) & 0x3fu);
    length = 4;
  } else if (first >= 0xe0) {
    code_point = (first & 0x0fu) << 12 | (byte(1) & 0x3fu) << 6 | (byte(2) & 0x3fu);
    length = 3;
  } else if (first >= 0x80) {
    code_point = (first & 0x1fu) << 6 | (byte(1) & 0x3fu);
    length = 2;
  }
  *offset += length;
  return code_point;
}

// Start of the code point that ends just before `end`, which is above 0; `text` must be UTF-8.
size_t PreviousBorder(std::string_view text, size_t end);

// Code points of `text`, which must be UTF-8.
size_t CountCodePoints(std::string_view text);

// Appends `code_point`, at most U+10FFFF.
void AppendUtf8(char32_t code_point, std::string* text);

// Unicode's White_Space property.
bool IsWhiteSpace(char32_t code_point);

// Makes UTF-8 of bytes that come in any cut: an unfinished code point is held back, and each
// maximal part of an ill-formed one becomes one U+FFFD (Unicode 3.9, as Rust and Python do). Not
// thread-safe.
class Utf8Repair {
 public:
  // Appends to *text what `bytes` completes.
  void Append(std::string_view bytes, std::string* text);

  // Appends U+FFFD for what is held back, if anything is.
  void Finish(std::string* text);

  // True while the start of a code point is held back.
  bool unfinished() const { return missing_ > 0; }

 private:
  void Push(uint8_t byte, std::string* text);

  std::string held_;    // start of one code point, at most 3 bytes
  int missing_ = 0;     // continuation bytes still to come
  uint8_t low_ = 0x80;  // range of the next continuation byte
  uint8_t high_ = 0xbf;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_UTF8_H_
