#include "base/chunk_hash.h"

#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(ChunkHashTest, IsOfSaltAndIds) {
  const std::vector<uint32_t> ids = {1, 2, 3};
  const std::vector<uint32_t> others = {1, 2, 4};
  EXPECT_EQ(ChunkHash("", ids), ChunkHash("", ids));
  EXPECT_NE(ChunkHash("", ids), ChunkHash("", others));
  EXPECT_NE(ChunkHash("", ids), ChunkHash("a", ids));
  EXPECT_NE(ChunkHash("a", ids), ChunkHash("b", ids));
  // Gateways and workers of any version must agree.
  EXPECT_EQ(ChunkHash("", ids), 0x6bbf7429332bea48u);
  EXPECT_EQ(ChunkHash("a", ids), 0x4a4b28e8762f2189u);
}

}  // namespace
}  // namespace tessera
