#include "gateway/text/utf8.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

// What a first byte asks for: how many continuation bytes, and the range of the first of them
// (which rules out overlong forms, surrogates and what lies beyond U+10FFFF).
struct Lead {
  int continuation;  // -1: no first byte
  uint8_t low;
  uint8_t high;
};

Lead ClassifyLead(uint8_t byte) {
  if (byte < 0x80) return {0, 0x80, 0xbf};
  if (byte >= 0xc2 && byte <= 0xdf) return {1, 0x80, 0xbf};
  if (byte == 0xe0) return {2, 0xa0, 0xbf};
  if (byte == 0xed) return {2, 0x80, 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {2, 0x80, 0xbf};
  if (byte == 0xf0) return {3, 0x90, 0xbf};
  if (byte >= 0xf1 && byte <= 0xf3) return {3, 0x80, 0xbf};
  if (byte == 0xf4) return {3, 0x80, 0x8f};
  return {-1, 0, 0};
}

}  // namespace

size_t FindInvalidUtf8(std::string_view text) {
  size_t offset = SkipAscii(text, 0);
  while (offset < text.size()) {
    const Lead lead = ClassifyLead(static_cast<uint8_t>(text[offset]));
    if (lead.continuation < 0) return offset;
    if (offset + lead.continuation >= text.size()) return offset;
    uint8_t low = lead.low, high = lead.high;
    for (int i = 1; i <= lead.continuation; ++i) {
      const auto byte = static_cast<uint8_t>(text[offset + i]);
      if (byte < low || byte > high) return offset;
      low = 0x80, high = 0xbf;
    }
    offset += 1 + lead.continuation;
    if (lead.continuation == 0) offset = SkipAscii(text, offset);
  }
  return std::string_view::npos;
}

size_t PreviousBorder(std::string_view text, size_t end) {
  do {
    --end;
  } while ((static_cast<uint8_t>(text[end]) & 0xc0) == 0x80);
  return end;
}

size_t CountCodePoints(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char byte) {
    return (static_cast<uint8_t>(byte) & 0xc0) != 0x80;
  }));
}

void AppendUtf8(char32_t code_point, std::string* text) {
  const auto push = [text](char32_t byte) { text->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xc0 | code_point >> 6);
    push(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    push(0xe0 | code_point >> 12);
    push(0x80 | (code_point >> 6 & 0x3f));
    push(0x80 | (code_point & 0x3f));
  } else {
    push(0xf0 | code_point >> 18);
    push(0x80 | (code_point >> 12 & 0x3f));
    push(0x80 | (code_point >> 6 & 0x3f));
    push(0x80 | (code_point & 0x3f));
  }
}

bool IsWhiteSpace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

void Utf8Repair::Append(std::string_view bytes, std::string* text) {
  size_t offset = 0;
  while (offset < bytes.size()) {
    if (missing_ == 0) {
      const size_t end = SkipAscii(bytes, offset);
      text->append(bytes.substr(offset, end - offset));
      offset = end;
      if (offset == bytes.size()) return;
    }
    Push(static_cast<uint8_t>(bytes[offset++]), text);
  }
}

void Utf8Repair::Push(uint8_t byte, std::string* text) {
  if (missing_ > 0 && (byte < low_ || byte > high_)) Finish(text);  // then `byte` starts anew
  if (missing_ > 0) {
    held_.push_back(static_cast<char>(byte));
    low_ = 0x80, high_ = 0xbf;
    if (--missing_ > 0) return;
    text->append(held_);
    held_.clear();
    return;
  }
  const Lead lead = ClassifyLead(byte);
  if (lead.continuation < 0) {
    text->append(kReplacement);
  } else if (lead.continuation == 0) {
    text->push_back(static_cast<char>(byte));
  } else {
    held_.assign(1, static_cast<char>(byte));
    missing_ = lead.continuation;
    low_ = lead.low, high_ = lead.high;
  }
}

void Utf8Repair::Finish(std::string* text) {
  if (missing_ == 0) return;
  text->append(kReplacement);
  held_.clear();
  missing_ = 0;
}

}  // namespace tessera
