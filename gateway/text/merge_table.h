// Open-addressed map from a pair of token ids to the rank of its merge.
#ifndef TESSERA_GATEWAY_TEXT_MERGE_TABLE_H_
#define TESSERA_GATEWAY_TEXT_MERGE_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tessera {

// Filled once, then only read.
class MergeTable {
 public:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  // Room for `count` pairs.
  explicit MergeTable(size_t count);

  // `rank` is below kNoRank, `merged` what the pair becomes. A pair that is there already keeps its
  // rank. At most as many pairs as there is room for.
  void Insert(uint32_t left, uint32_t right, uint32_t rank, uint32_t merged);

  struct Merge {
    uint32_t rank;  // kNoRank: the pair does not merge
    uint32_t merged;
  };
  Merge Find(uint32_t left, uint32_t right) const {
    const uint64_t key = Key(left, right);
    const uint64_t hash = key * kFactor;
    const size_t bit = hash >> filter_shift_;
    if ((filter_[bit / 64] >> (bit % 64) & 1) == 0) return {kNoRank, 0};
    size_t at = hash >> shift_;
    while (slots_[at].key != key && slots_[at].key != kFree) at = (at + 1) & (slots_.size() - 1);
    return slots_[at].merge;
  }

 private:
  static constexpr uint64_t kFree = UINT64_MAX;  // as a key: no id is that large
  static constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;

  struct Slot {
    uint64_t key;
    Merge merge;
  };

  static uint64_t Key(uint32_t left, uint32_t right) {
    return static_cast<uint64_t>(left) << 32 | right;
  }

  std::vector<Slot> slots_;  // a power of two, at most 3/4 full; linear probing
  int shift_;
  // Most pairs that are looked for do not merge. A bit for each of eight parts of a slot's hashes
  // tells so for nine out of ten of them, and stays in the processor's cache where slots_ does not.
  std::vector<uint64_t> filter_;
  int filter_shift_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_MERGE_TABLE_H_
