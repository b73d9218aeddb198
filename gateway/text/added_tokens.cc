#include "gateway/text/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "gateway/text/utf8.h"

namespace tessera {
namespace {

uint8_t FirstByte(const AddedToken& token) { return static_cast<uint8_t>(token.text[0]); }

bool IsWord(char32_t code_point) {
  if (code_point == 0x200c || code_point == 0x200d) return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool WordBeside(std::string_view text, ByteRange match) {
  if (match.begin > 0) {
    size_t offset = PreviousBorder(text, match.begin);
    if (IsWord(NextCodePoint(text, &offset))) return true;
  }
  size_t offset = match.end;
  return offset < text.size() && IsWord(NextCodePoint(text, &offset));
}

size_t SkipSpaceLeft(std::string_view text, size_t begin, size_t limit) {
  while (begin > limit) {
    const size_t previous = PreviousBorder(text, begin);
    size_t offset = previous;
    if (!IsWhiteSpace(NextCodePoint(text, &offset))) break;
    begin = previous;
  }
  return std::max(begin, limit);
}

size_t SkipSpaceRight(std::string_view text, size_t end) {
  while (end < text.size()) {
    size_t next = end;
    if (!IsWhiteSpace(NextCodePoint(text, &next))) break;
    end = next;
  }
  return end;
}

bool Inside(ByteRange match, std::span<const ByteRange> ranges) {
  const auto it = std::upper_bound(ranges.begin(), ranges.end(), match.begin,
                                   [](size_t at, ByteRange range) { return at < range.end; });
  return it != ranges.end() && it->begin <= match.begin && match.end <= it->end;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.text.empty(); });
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    if (FirstByte(a) != FirstByte(b)) return FirstByte(a) < FirstByte(b);
    return a.text.size() > b.text.size();
  });
  by_first_byte_.fill({0, 0});
  for (size_t i = 0; i < tokens_.size(); ++i) {
    ByteRange& range = by_first_byte_[FirstByte(tokens_[i])];
    if (range.end == 0) range.begin = i;
    range.end = i + 1;
  }
}

size_t AddedTokens::NextStart(std::string_view text, size_t at) const {
  if (tokens_.empty()) return text.size();
  // In most models all tokens start with "<".
  const char first = tokens_.front().text[0];
  if (first == tokens_.back().text[0]) return std::min(text.find(first, at), text.size());
  while (at < text.size() && by_first_byte_[static_cast<uint8_t>(text[at])].end == 0) ++at;
  return at;
}

const AddedToken* AddedTokens::Longest(std::string_view text, size_t at) const {
  const ByteRange range = by_first_byte_[static_cast<uint8_t>(text[at])];
  for (size_t i = range.begin; i < range.end; ++i) {
    if (text.compare(at, tokens_[i].text.size(), tokens_[i].text) == 0) return &tokens_[i];
  }
  return nullptr;
}

std::vector<AddedTokens::Part> AddedTokens::Split(std::string_view text,
                                                  std::span<const ByteRange> recognised) const {
  std::vector<Part> parts;
  size_t done = 0;
  for (size_t at = NextStart(text, 0); at < text.size(); at = NextStart(text, at)) {
    const AddedToken* token = Longest(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    ByteRange match = {at, at + token->text.size()};
    // Goes on just behind the first byte, so that nothing a user writes can hide a token of the
    // template that starts inside.
    ++at;
    if (token->special && !Inside(match, recognised)) continue;
    if (token->single_word && WordBeside(text, match)) continue;
    if (token->strip_left) match.begin = SkipSpaceLeft(text, match.begin, done);
    if (token->strip_right) match.end = SkipSpaceRight(text, match.end);
    if (done < match.begin) parts.push_back({std::nullopt, {done, match.begin}});
    parts.push_back({token->id, match});
    at = done = match.end;
  }
  if (done < text.size()) parts.push_back({std::nullopt, {done, text.size()}});
  return parts;
}

}  // namespace tessera
