#include "gateway/text/nfc.h"

#include <utf8proc.h>

#include <cstdlib>
#include <vector>

#include "gateway/text/utf8.h"

namespace tessera {
namespace {

// The table below covers the Basic Multilingual Plane.
constexpr char32_t kTableSize = 0x10000;
// All code points with a canonical decomposition are below.
constexpr char32_t kDecomposedEnd = 0x30000;

// Canonical decomposition of `c`, or just `c`.
std::vector<utf8proc_int32_t> Decomposed(char32_t c) {
  std::vector<utf8proc_int32_t> letters(8);
  const utf8proc_ssize_t count = utf8proc_decompose_char(
      static_cast<utf8proc_int32_t>(c), letters.data(),
      static_cast<utf8proc_ssize_t>(letters.size()), UTF8PROC_DECOMPOSE, nullptr);
  letters.resize(count < 0 ? 0 : static_cast<size_t>(count));
  return letters;
}

// What form C may do to a code point: 0 when it leaves it alone whatever stands beside it (it is a
// starter, is its own form C, and does not end the decomposition of another, so that it joins
// nothing before it); kMayChange; or, for a mark that joins nothing either, its combining class, by
// which marks are sorted.
constexpr uint8_t kMayChange = 255;

std::vector<uint8_t> ChangeTable() {
  std::vector<uint8_t> changes(kTableSize, 0);
  for (char32_t c = 0; c < kDecomposedEnd; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    const bool hangul = c >= 0xac00 && c < 0xd7a4;
    const std::vector<utf8proc_int32_t> letters =
        hangul ? std::vector<utf8proc_int32_t>() : Decomposed(c);
    for (size_t i = 1; i < letters.size(); ++i) {
      const auto part = static_cast<char32_t>(letters[i]);
      if (part < kTableSize) changes[part] = kMayChange;
    }
    if (c >= kTableSize || changes[c] == kMayChange) continue;
    std::string text;
    AppendUtf8(c, &text);
    const auto* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
    const bool medial = c >= 0x1160 && c < 0x1200;  // Hangul letters that join what is before them
    const auto combining = static_cast<uint8_t>(property->combining_class);
    changes[c] = medial || Nfc(text) != text ? kMayChange : combining;
  }
  return changes;
}

uint8_t ChangeOf(char32_t c) {
  static const std::vector<uint8_t> kChanges = ChangeTable();
  if (c < 0x300) return 0;
  if (c < kTableSize) return kChanges[c];
  return c >= 0x1f000 && c < 0x20000 ? 0 : kMayChange;  // pictographs
}

}  // namespace

bool IsSurelyNfc(std::string_view text) {
  size_t offset = SkipAscii(text, 0);
  uint8_t before = 0;
  while (offset < text.size()) {
    const char32_t code_point = NextCodePoint(text, &offset);
    const uint8_t change = ChangeOf(code_point);
    if (change == kMayChange || (change != 0 && change < before)) return false;
    before = change;
    if (code_point < 0x80) offset = SkipAscii(text, offset);
  }
  return true;
}

std::string Nfc(std::string_view text) {
  utf8proc_uint8_t* normal = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &normal,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  // It fails only for text that is not UTF-8, or without memory.
  std::string result =
      size < 0 ? std::string(text)
               : std::string(reinterpret_cast<const char*>(normal), static_cast<size_t>(size));
  std::free(normal);
  return result;
}

}  // namespace tessera
