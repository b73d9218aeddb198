#include "gateway/text/merge_table.h"

#include <algorithm>
#include <bit>

namespace tessera {

MergeTable::MergeTable(size_t count) {
  const size_t size = std::bit_ceil(std::max<size_t>(count + count / 3 + 1, 16));
  slots_.assign(size, {kFree, {kNoRank, 0}});
  shift_ = 64 - std::countr_zero(size);
  filter_.assign(size * 8 / 64, 0);
  filter_shift_ = shift_ - 3;
}

void MergeTable::Insert(uint32_t left, uint32_t right, uint32_t rank, uint32_t merged) {
  const uint64_t key = Key(left, right);
  const uint64_t hash = key * kFactor;
  size_t at = hash >> shift_;
  while (slots_[at].key != kFree) {
    if (slots_[at].key == key) return;
    at = (at + 1) & (slots_.size() - 1);
  }
  slots_[at] = {key, {rank, merged}};
  const size_t bit = hash >> filter_shift_;
  filter_[bit / 64] |= uint64_t{1} << (bit % 64);
}

}  // namespace tessera
