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
      static_cast<utf8proc_ssize_t>(letters.size()), static_cast<utf8proc_option_t>(0), nullptr);
  letters.resize(count < 0 ? 0 : static_cast<size_t>(count));
  return letters;
}

// Code points that form C leaves alone whatever stands beside them: they are starters, are their
// own form C, and do not end the decomposition of another (so they join nothing before them).
std::vector<bool> InertTable() {
  std::vector<bool> inert(kTableSize, true);
  for (char32_t c = 0; c < kDecomposedEnd; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    const bool hangul = c >= 0xac00 && c < 0xd7a4;
    const std::vector<utf8proc_int32_t> letters =
        hangul ? std::vector<utf8proc_int32_t>() : Decomposed(c);
    for (size_t i = 1; i < letters.size(); ++i) {
      const auto part = static_cast<char32_t>(letters[i]);
      if (part < kTableSize) inert[part] = false;
    }
    if (c >= kTableSize) continue;
    std::string text;
    AppendUtf8(c, &text);
    const auto* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
    const bool medial = c >= 0x1160 && c < 0x1200;  // Hangul letters that join what is before them
    if (property->combining_class != 0 || medial || Nfc(text) != text) inert[c] = false;
  }
  return inert;
}

bool IsInert(char32_t c) {
  static const std::vector<bool> kInert = InertTable();
  if (c < 0x300) return true;
  if (c < kTableSize) return kInert[c];
  return c >= 0x1f000 && c < 0x20000;  // pictographs
}

}  // namespace

bool IsSurelyNfc(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    if (!IsInert(NextCodePoint(text, &offset))) return false;
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
