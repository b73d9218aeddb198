// The tables of a BPE model against the standard library's.
#include <map>
#include <random>
#include <string>

#include "gateway/text/merge_table.h"
#include "gateway/text/token_table.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

std::string RandomWord(std::mt19937& rng) {
  std::string word(1 + rng() % 40, 'a');
  // Few letters, so that words share beginnings and ends.
  for (char& letter : word) letter = static_cast<char>("ab\xe4\xff"[rng() % 4]);
  return word;
}

uint32_t Find(const TokenTable& table, std::string_view word) {
  return table.Find(word, HashWord(word)).id;
}

TEST(TokenTableTest, FindsWhatWasInserted) {
  std::mt19937 rng(1);
  std::map<std::string, uint32_t> expected;
  TokenTable table;
  EXPECT_EQ(Find(table, "a"), TokenTable::kNone);
  table.Reserve(6000, 3 * 6000);
  for (uint32_t id = 0; id < 6000; ++id) {
    const std::string word = RandomWord(rng);
    EXPECT_EQ(table.Insert(word, 3 * id), expected.emplace(word, 3 * id).second);
  }
  for (const auto& [word, id] : expected) {
    ASSERT_EQ(Find(table, word), id);
    EXPECT_EQ(table.Bytes(id), word);
    EXPECT_FALSE(table.Find(word, HashWord(word)).marked);
    table.Mark(id);
    EXPECT_TRUE(table.Find(word, HashWord(word)).marked);
  }
  for (int i = 0; i < 100000; ++i) {
    const std::string word = RandomWord(rng);
    const auto it = expected.find(word);
    ASSERT_EQ(Find(table, word), it == expected.end() ? TokenTable::kNone : it->second) << word;
  }
  EXPECT_EQ(Find(table, ""), TokenTable::kNone);
  EXPECT_EQ(table.size(), 3 * 6000u + 1);
  EXPECT_EQ(table.Bytes(1), "");
  EXPECT_EQ(table.Bytes(1u << 30), "");
}

TEST(TokenTableTest, RefusesAnIdOrAWordThatIsThere) {
  TokenTable table;
  table.Reserve(4, 10);
  EXPECT_TRUE(table.Insert("one", 1));
  EXPECT_FALSE(table.Insert("two", 1));
  EXPECT_FALSE(table.Insert("one", 2));
  EXPECT_TRUE(table.Insert("two", 10));
  EXPECT_EQ(table.Bytes(1), "one");
}

TEST(SameBytesTest, EveryByteCounts) {
  for (size_t size = 0; size < 40; ++size) {
    const std::string word(size, 'x');
    EXPECT_TRUE(SameBytes(word.data(), std::string(size, 'x').data(), size));
    for (size_t at = 0; at < size; ++at) {
      std::string other = word;
      other[at] = 'y';
      EXPECT_FALSE(SameBytes(word.data(), other.data(), size)) << size << " " << at;
      EXPECT_NE(HashWord(word), HashWord(other)) << size << " " << at;
    }
  }
}

TEST(MergeTableTest, FindsWhatWasInserted) {
  std::mt19937 rng(2);
  constexpr uint32_t kPairs = 20000, kIds = 300;
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> expected;
  MergeTable table(kPairs);
  for (uint32_t rank = 0; rank < kPairs; ++rank) {
    const uint32_t left = rng() % kIds, right = rng() % kIds;
    table.Insert(left, right, rank, rank + 7);
    expected.emplace(std::pair(left, right), rank);  // the first stays
  }
  for (uint32_t left = 0; left < kIds; ++left) {
    for (uint32_t right = 0; right < kIds; ++right) {
      const MergeTable::Merge merge = table.Find(left, right);
      const auto it = expected.find({left, right});
      if (it == expected.end()) {
        ASSERT_EQ(merge.rank, MergeTable::kNoRank);
      } else {
        ASSERT_EQ(merge.rank, it->second);
        ASSERT_EQ(merge.merged, it->second + 7);
      }
    }
  }
}

}  // namespace
}  // namespace tessera
