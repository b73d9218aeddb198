#include "gateway/text/nfc.h"

#include <utf8proc.h>

#include <cstdlib>

#include "gateway/text/utf8.h"

namespace tessera {
namespace {

// Code points that never change and never join what stands before them; not all of them.
bool IsInert(char32_t c) {
  if (c < 0x300) return true;
  if (c >= 0x400 && c < 0x483) return true;    // Cyrillic
  if (c >= 0x3041 && c < 0x3099) return true;  // Hiragana
  if (c >= 0x309b && c < 0x3100) return true;  // Katakana
  if (c >= 0x3400 && c < 0xa000) return true;  // CJK, without the compatibility ideographs
  if (c >= 0xac00 && c < 0xd7a4) return true;  // Hangul syllables: the letters that join are below
  if (c >= 0x2010 && c < 0x2060) return true;  // punctuation
  if (c >= 0x3001 && c < 0x302a) return true;  // CJK punctuation
  if (c >= 0xff01 && c < 0xffe0) return true;  // full width
  return c >= 0x1f000 && c < 0x20000;          // pictographs
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
