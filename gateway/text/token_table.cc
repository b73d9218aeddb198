#include "gateway/text/token_table.h"

#include <algorithm>
#include <bit>

namespace tessera {

void TokenTable::Reserve(size_t count, uint32_t largest_id) {
  const size_t size = std::bit_ceil(std::max<size_t>(count + count / 3 + 1, 2));
  slots_.assign(size, {0, kNone});
  shift_ = 64 - std::countr_zero(size);
  spans_.assign(count == 0 ? 0 : size_t{largest_id} + 1, {});
}

bool TokenTable::Insert(std::string_view bytes, uint32_t id) {
  const uint64_t hash = HashWord(bytes);
  if (spans_[id].size > 0 || Find(bytes, hash).id != kNone) return false;
  if (bytes_.size() + bytes.size() > UINT32_MAX) return false;
  size_t at = hash >> shift_;
  while (slots_[at].token != kNone) at = (at + 1) & (slots_.size() - 1);
  slots_[at] = {static_cast<uint32_t>(hash), id};
  spans_[id] = {static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(bytes.size())};
  bytes_ += bytes;
  return true;
}

void TokenTable::Mark(uint32_t id) {
  size_t at = HashWord(Bytes(id)) >> shift_;
  while ((slots_[at].token & ~kMark) != id) at = (at + 1) & (slots_.size() - 1);
  slots_[at].token |= kMark;
}

}  // namespace tessera
