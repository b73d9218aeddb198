#include "cache_server/tier/rocksdb_crc32c.h"

#include <random>
#include <string>

#include "cache_server/tier/rocksdb_open.h"
#include "gtest/gtest.h"
#include "tests/cache_server/tier/rocksdb_folders.h"

namespace tessera::testing {
namespace {

TEST(RocksdbCrc32cTest, TheKnownAnswer) {
  // RFC 3720, B.4: 32 zeros, and "123456789", which every CRC's author gives.
  EXPECT_EQ(FastCrc32c()(0, std::string(32, '\0').data(), 32), 0x8A9136AAu);
  EXPECT_EQ(FastCrc32c()(0, "123456789", 9), 0xE3069283u);
}

TEST(RocksdbCrc32cTest, EqualsRocksdbsOwn) {
  std::mt19937 random(1);
  std::string bytes(100'000, ' ');
  for (char& byte : bytes) byte = static_cast<char>(random());
  const Crc32cFunction own = RocksdbCrc32c();
  for (int round = 0; round < 2000; ++round) {
    const size_t start = random() % 100;
    const size_t size = random() % (round % 2 == 0 ? 200 : bytes.size() - start);
    const auto before = static_cast<uint32_t>(random());
    EXPECT_EQ(FastCrc32c()(before, bytes.data() + start, size),
              own(before, bytes.data() + start, size))
        << start << " " << size;
  }
}

TEST(RocksdbCrc32cTest, RocksdbUsesIt) {
  const TestFolder folder;
  ASSERT_NE(OpenTier(SmallTierOptions(folder.tier())), nullptr);
  EXPECT_TRUE(FastCrc32cIsUsed());
}

}  // namespace
}  // namespace tessera::testing
