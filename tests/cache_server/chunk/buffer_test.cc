#include "cache_server/chunk/buffer.h"

#include <cstdint>
#include <utility>

#include "cache_server/chunk/checksum.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(BufferTest, IsAlignedAndMoves) {
  auto buffer = Buffer::Allocate(10000);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->size(), 10000u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->view().data()) % Buffer::kAlignment, 0u);
  buffer->mutable_view()[9999] = std::byte{7};
  const std::byte* memory = buffer->view().data();
  const Buffer moved = *std::move(buffer);
  EXPECT_EQ(moved.view().data(), memory);
  EXPECT_EQ(moved.view()[9999], std::byte{7});
}

TEST(BufferTest, CopyIsAnother) {
  Buffer buffer = *Buffer::Allocate(3);
  buffer.mutable_view()[0] = std::byte{1};
  const auto copy = buffer.Copy();
  ASSERT_TRUE(copy.ok());
  buffer.mutable_view()[0] = std::byte{2};
  EXPECT_EQ(copy->view()[0], std::byte{1});
}

TEST(BufferTest, EmptyAndImpossible) {
  EXPECT_EQ(Buffer::Allocate(0)->size(), 0u);
  EXPECT_TRUE(Buffer::Allocate(0)->Copy().ok());
  EXPECT_EQ(Buffer::Allocate(size_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// XXH3-64 of nothing and of "abc", seed 0: constants of the published algorithm.
TEST(ChecksumTest, Golden) {
  EXPECT_EQ(SliceChecksum({}), 0x2D06800538D394C2u);
  const std::byte abc[] = {std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
  EXPECT_EQ(SliceChecksum(abc), 0x78AF5F94892F3950u);
}

}  // namespace
}  // namespace tessera
