#include "cache_server/tier/eviction_policy.h"

#include <map>
#include <random>
#include <set>
#include <vector>

#include "cache_server/tier/lru_policy.h"
#include "cache_server/tier/s3_fifo_policy.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {
namespace {

constexpr uint64_t kCapacity = 100;

bool Anything(const ChunkKey&) { return true; }

std::optional<ChunkKey> EvictAnything(EvictionPolicy* policy) { return policy->Evict(Anything); }

struct Lru {
  static constexpr EvictionKind kKind = EvictionKind::kLru;
};
struct S3Fifo {
  static constexpr EvictionKind kKind = EvictionKind::kS3Fifo;
};

// What every policy must do.
template <typename Kind>
class EvictionPolicyTest : public ::testing::Test {
 protected:
  const std::unique_ptr<EvictionPolicy> policy_ = MakeEvictionPolicy(Kind::kKind, kCapacity);
};
using Kinds = ::testing::Types<Lru, S3Fifo>;
TYPED_TEST_SUITE(EvictionPolicyTest, Kinds);

TYPED_TEST(EvictionPolicyTest, EveryKeyLeavesOnce) {
  EXPECT_EQ(EvictAnything(this->policy_.get()), std::nullopt);
  std::set<ChunkKey> added;
  for (uint32_t number = 0; number < 100; ++number) {
    this->policy_->Add(TestKey(number), 1 + number % 3);
    added.insert(TestKey(number));
    for (uint32_t read = 0; read < number % 6; ++read) this->policy_->Touch(TestKey(number));
  }
  while (const auto key = EvictAnything(this->policy_.get())) {
    EXPECT_EQ(added.erase(*key), 1u) << "twice, or never added";
  }
  EXPECT_TRUE(added.empty());
}

TYPED_TEST(EvictionPolicyTest, RemovedKeysAreGone) {
  for (uint32_t number : {1, 2, 3}) this->policy_->Add(TestKey(number), 4);
  this->policy_->Remove(TestKey(2));
  this->policy_->Remove(TestKey(2));
  this->policy_->Remove(TestKey(9));
  this->policy_->Touch(TestKey(2));
  std::set<ChunkKey> left;
  while (const auto key = EvictAnything(this->policy_.get())) left.insert(*key);
  EXPECT_EQ(left, (std::set<ChunkKey>{TestKey(1), TestKey(3)}));
  // It may come back.
  this->policy_->Add(TestKey(2), 4);
  EXPECT_EQ(EvictAnything(this->policy_.get()), TestKey(2));
}

TYPED_TEST(EvictionPolicyTest, AsksOnceAndObeys) {
  for (uint32_t number = 0; number < 50; ++number) {
    this->policy_->Add(TestKey(number), 2);
    for (uint32_t read = 0; read < number % 5; ++read) this->policy_->Touch(TestKey(number));
  }
  for (int round = 0; round < 10; ++round) {
    std::map<ChunkKey, int> asked;
    const auto none = [&asked](const ChunkKey& key) {
      ++asked[key];
      return false;
    };
    EXPECT_EQ(this->policy_->Evict(none), std::nullopt);
    EXPECT_EQ(asked.size(), 50u);
    for (const auto& [key, times] : asked) EXPECT_EQ(times, 1);
  }
  const auto only_17 = [](const ChunkKey& key) { return key == TestKey(17); };
  EXPECT_EQ(this->policy_->Evict(only_17), TestKey(17));
  EXPECT_EQ(this->policy_->Evict(only_17), std::nullopt);
}

// Against a plain set: adds, reads, removals and evictions in a random order.
TYPED_TEST(EvictionPolicyTest, AgreesWithASet) {
  std::minstd_rand random(5);
  std::set<ChunkKey> here;
  for (int step = 0; step < 50000; ++step) {
    const ChunkKey key = TestKey(random() % 64);
    const auto has_bit = [&here, bit = random() % 3](const ChunkKey& asked) {
      EXPECT_TRUE(here.contains(asked));
      return asked.bytes[0] % 3 != bit;
    };
    switch (random() % 8) {
      case 0:
        this->policy_->Remove(key);
        here.erase(key);
        break;
      case 1:
      case 2: {
        const auto evicted = this->policy_->Evict(has_bit);
        if (evicted.has_value()) {
          ASSERT_EQ(here.erase(*evicted), 1u);
        }
        break;
      }
      default:
        if (here.insert(key).second) {
          this->policy_->Add(key, 1 + random() % 20);
        } else {
          this->policy_->Touch(key);
        }
    }
  }
  size_t left = 0;
  while (EvictAnything(this->policy_.get()).has_value()) ++left;
  EXPECT_EQ(left, here.size());
}

TEST(LruPolicyTest, LeastRecentlyUsedFirst) {
  LruPolicy policy;
  for (uint32_t number : {1, 2, 3, 4}) policy.Add(TestKey(number), 1);
  policy.Touch(TestKey(1));
  policy.Touch(TestKey(3));
  const auto not_2 = [](const ChunkKey& key) { return key != TestKey(2); };
  EXPECT_EQ(policy.Evict(not_2), TestKey(4));
  EXPECT_EQ(EvictAnything(&policy), TestKey(2));
  EXPECT_EQ(EvictAnything(&policy), TestKey(1));
  EXPECT_EQ(EvictAnything(&policy), TestKey(3));
}

class S3FifoPolicyTest : public ::testing::Test {
 protected:
  // A full cache of 100: keys 0..99 of one byte, of which 10 are in the small queue.
  S3FifoPolicyTest() {
    for (uint32_t number = 0; number < kCapacity; ++number) policy_.Add(TestKey(number), 1);
  }
  // Makes room for `key`, and adds it.
  ChunkKey Replace(uint32_t number) {
    const ChunkKey evicted = *EvictAnything(&policy_);
    policy_.Add(TestKey(number), 1);
    return evicted;
  }

  S3FifoPolicy policy_{kCapacity};
};

TEST_F(S3FifoPolicyTest, AScanLeavesTheMainQueueAlone) {
  std::set<ChunkKey> gone;
  for (uint32_t number = 1000; number < 2000; ++number) gone.insert(Replace(number));
  // The ten of the small queue went, and then the scan's own.
  for (uint32_t number = 10; number < kCapacity; ++number) {
    EXPECT_FALSE(gone.contains(TestKey(number))) << number;
  }
  EXPECT_EQ(gone.size(), 1000u);
}

TEST_F(S3FifoPolicyTest, TwoReadsLeadFromTheSmallQueueToTheMainOne) {
  policy_.Touch(TestKey(0));
  policy_.Touch(TestKey(0));
  policy_.Touch(TestKey(1));
  EXPECT_EQ(Replace(1000), TestKey(1)) << "one read is not enough";
  for (uint32_t number = 1001; number < 1100; ++number) {
    EXPECT_NE(Replace(number), TestKey(0));
  }
}

TEST_F(S3FifoPolicyTest, AGhostComesBackToTheMainQueue) {
  ASSERT_EQ(Replace(1000), TestKey(0));
  EXPECT_EQ(policy_.ghosts(), 1u);
  const ChunkKey second = Replace(0);
  EXPECT_EQ(second, TestKey(1));
  EXPECT_EQ(policy_.ghosts(), 1u) << "a key that came back is no ghost";
  for (uint32_t number = 1001; number < 1090; ++number) EXPECT_NE(Replace(number), TestKey(0));
}

TEST_F(S3FifoPolicyTest, GhostsAreBounded) {
  for (uint32_t number = 1000; number < 6000; ++number) Replace(number);
  EXPECT_LE(policy_.ghosts(), kCapacity);
  EXPECT_GE(policy_.ghosts(), kCapacity - 1);
}

TEST_F(S3FifoPolicyTest, MainEntriesGoOneMoreRoundForEachReadUpToThree) {
  // Only the main queue is left.
  for (uint32_t number = 0; number < 10; ++number) policy_.Remove(TestKey(number));
  for (int read = 0; read < 9; ++read) policy_.Touch(TestKey(10));
  for (int read = 0; read < 2; ++read) policy_.Touch(TestKey(11));
  std::vector<ChunkKey> order;
  while (const auto key = EvictAnything(&policy_)) order.push_back(*key);
  ASSERT_EQ(order.size(), 90u);
  EXPECT_EQ(order[0], TestKey(12));
  EXPECT_EQ(order[88], TestKey(11));
  EXPECT_EQ(order[89], TestKey(10));
}

TEST(EvictionKindTest, Names) {
  EXPECT_EQ(*ParseEvictionKind("lru"), EvictionKind::kLru);
  EXPECT_EQ(*ParseEvictionKind("s3fifo"), EvictionKind::kS3Fifo);
  const absl::Status status = ParseEvictionKind("LRU").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("lru or s3fifo"), std::string::npos);
}

}  // namespace
}  // namespace tessera::testing
