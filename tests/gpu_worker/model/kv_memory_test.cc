#include "gpu_worker/model/kv_memory.h"

#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

constexpr int64_t kBlock = KvPool::kBlockSlots;

class KvMemoryTest : public ::testing::Test {
 protected:
  static ModelConfig Model() {
    ModelConfig model;
    model.layers = 2;
    model.kv_heads = 3;
    model.head_dim = 4;
    return model;
  }

  // Writes a number that no other slot has to all that belongs to a slot.
  static void Fill(const KvMemory& kv, int64_t first, int64_t last, float base) {
    ForEach(kv, first, last, [&](float& number, int64_t place) { number = base + place; });
  }
  static void ExpectFilled(const KvMemory& kv, int64_t first, int64_t last, float base) {
    ForEach(kv, first, last, [&](float& number, int64_t place) {
      ASSERT_EQ(number, base + place) << place;
    });
  }

  KvPool pool_{Model(), 8};

 private:
  template <typename Visit>
  static void ForEach(const KvMemory& kv, int64_t first, int64_t last, Visit visit) {
    for (int64_t layer = 0; layer < 2; ++layer) {
      const LayerKv memory = kv.Layer(layer);
      for (int64_t head = 0; head < 3; ++head) {
        for (int64_t slot = first; slot < last; ++slot) {
          for (int64_t i = 0; i < 4; ++i) {
            const int64_t place = ((layer * 3 + head) * 1000 + slot) * 8 + i;
            visit(memory.K(head, slot)[i], place);
            visit(memory.V(head, slot)[i], place + 4);
          }
        }
      }
    }
  }
};

TEST_F(KvMemoryTest, SlotsOfSeveralMemoriesAreApart) {
  KvMemory a(&pool_), b(&pool_);
  for (int64_t blocks = 1; blocks <= 4; ++blocks) {
    ASSERT_TRUE(a.Grow(blocks * kBlock));
    ASSERT_TRUE(b.Grow(blocks * kBlock - 10));
  }
  EXPECT_EQ(pool_.free_blocks(), 0);
  Fill(a, 0, 4 * kBlock, 0.5f);
  Fill(b, 0, 4 * kBlock, -3e5f);
  ExpectFilled(a, 0, 4 * kBlock, 0.5f);
  ExpectFilled(b, 0, 4 * kBlock, -3e5f);
}

TEST_F(KvMemoryTest, BlocksComeBack) {
  {
    KvMemory a(&pool_), b(&pool_);
    ASSERT_TRUE(a.Grow(5 * kBlock));
    EXPECT_FALSE(b.Grow(4 * kBlock)) << "three are left";
    EXPECT_EQ(b.capacity(), 0) << "and none of them was taken";
    EXPECT_EQ(pool_.free_blocks(), 3);
    ASSERT_TRUE(b.Grow(3 * kBlock));
    a = std::move(b);
    EXPECT_EQ(pool_.free_blocks(), 5);
  }
  EXPECT_EQ(pool_.free_blocks(), 8);
}

TEST_F(KvMemoryTest, BlocksStandInARowWherePossible) {
  KvMemory a(&pool_), b(&pool_), c(&pool_);
  ASSERT_TRUE(a.Grow(2 * kBlock));
  ASSERT_TRUE(b.Grow(kBlock));
  EXPECT_EQ(a.Layer(0).Run(0, 2 * kBlock), 2 * kBlock);
  a = KvMemory(&pool_);
  ASSERT_TRUE(c.Grow(3 * kBlock)) << "the hole of two is too small";
  EXPECT_EQ(c.Layer(1).Run(0, 3 * kBlock), 3 * kBlock);
  EXPECT_EQ(c.Layer(1).Run(10, 50), 50);
  ASSERT_TRUE(c.Grow(4 * kBlock));
  EXPECT_EQ(c.Layer(0).Run(0, 4 * kBlock), 4 * kBlock) << "it goes on behind its last";
  ASSERT_TRUE(b.Grow(2 * kBlock));
  EXPECT_EQ(b.Layer(0).Run(0, 2 * kBlock), kBlock);
  EXPECT_EQ(b.Layer(0).Run(kBlock - 1, 5), 1);
}

TEST_F(KvMemoryTest, AForkSharesWholeBlocksAndCopiesTheRest) {
  KvMemory a(&pool_), fork(&pool_);
  const int64_t slots = 2 * kBlock + 5;
  ASSERT_TRUE(a.Grow(slots));
  Fill(a, 0, slots, 1.0f);
  ASSERT_TRUE(a.Fork(slots, &fork));
  EXPECT_EQ(pool_.free_blocks(), 4) << "one block more";
  ExpectFilled(fork, 0, slots, 1.0f);
  Fill(fork, slots, slots + 20, 7.0f);
  Fill(a, slots, slots + 20, 9.0f);
  ExpectFilled(fork, slots, slots + 20, 7.0f);
  a = KvMemory(&pool_);
  ExpectFilled(fork, 0, slots, 1.0f);
  EXPECT_EQ(pool_.free_blocks(), 5);
  KvMemory rest(&pool_), none(&pool_);
  ASSERT_TRUE(rest.Grow(5 * kBlock));
  EXPECT_FALSE(fork.Fork(slots, &none));
  EXPECT_EQ(none.capacity(), 0);
  EXPECT_TRUE(fork.Fork(2 * kBlock, &none)) << "whole blocks take no other";
}

}  // namespace
}  // namespace tessera
