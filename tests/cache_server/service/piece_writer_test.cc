#include "cache_server/service/piece_writer.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache_server/chunk/checksum.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/test_ram_tier.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 2, .slice_bytes = 6000};

class PieceWriterTest : public ::testing::Test {
 protected:
  PieceWriterTest() : store_(Tiers()), writer_(&store_, /*max_slice_bytes=*/10000) {}

  static std::vector<std::unique_ptr<Tier>> Tiers() {
    std::vector<std::unique_ptr<Tier>> tiers;
    tiers.push_back(MakeTestRamTier(40960, ToTheEnd()));
    return tiers;
  }

  absl::Status Header(uint32_t number, PieceShape shape = kShape) {
    return writer_.AddHeader(std::string(TestKey(number).AsBytes()), shape, "");
  }
  absl::Status Part(uint32_t number, uint32_t layer, uint64_t offset, uint64_t size,
                    uint64_t checksum_error = 0, PieceShape shape = kShape) {
    std::vector<std::byte> bytes = TestBytes(number, shape);
    bytes.resize(bytes.size() + 20000);
    const auto slice =
        absl::MakeConstSpan(bytes).subspan(layer * shape.slice_bytes, shape.slice_bytes);
    const SlicePart part = {
        .layer = layer, .offset = offset, .checksum = SliceChecksum(slice) + checksum_error};
    std::string wire = EncodeSlicePrefix(part, size);
    wire.append(reinterpret_cast<const char*>(slice.data() + offset), size);
    const absl::Span<const std::byte> fragment(reinterpret_cast<const std::byte*>(wire.data()),
                                               wire.size());
    return writer_.AddPart(*ReceivedMessage::Parse({&fragment, 1}));
  }
  void StoreWhole(uint32_t number) {
    ASSERT_TRUE(Header(number).ok());
    for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
      ASSERT_TRUE(Part(number, layer, 0, kShape.slice_bytes).ok());
    }
  }
  bool Stored(uint32_t number) { return store_.Get(TestKey(number)).ok(); }

  ChunkStore store_;
  PieceWriter writer_;
};

TEST_F(PieceWriterTest, VisibleWithItsLastByte) {
  ASSERT_TRUE(Header(1).ok());
  ASSERT_TRUE(Part(1, 0, 0, 6000).ok());
  ASSERT_TRUE(Part(1, 1, 0, 2500).ok());
  ASSERT_TRUE(Part(1, 1, 2500, 3499).ok());
  EXPECT_FALSE(Stored(1));
  ASSERT_TRUE(Part(1, 1, 5999, 1).ok());
  ASSERT_TRUE(Stored(1));
  EXPECT_TRUE(HoldsTestPiece(store_.Get(TestKey(1))->handle, 1));
  EXPECT_TRUE(writer_.Finish().ok());
  EXPECT_EQ(writer_.counts().stored, 1u);
}

TEST_F(PieceWriterTest, UnfinishedLeavesNoTrace) {
  ASSERT_TRUE(Header(1).ok());
  ASSERT_TRUE(Part(1, 0, 0, 6000).ok());
  EXPECT_EQ(writer_.Finish().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Stored(1));
  EXPECT_EQ(store_.Stats()[0].used_bytes, 0u);
}

TEST_F(PieceWriterTest, PresentPiecesArePassedOver) {
  StoreWhole(1);
  StoreWhole(1);
  StoreWhole(2);
  EXPECT_EQ(writer_.counts().stored, 2u);
  EXPECT_EQ(writer_.counts().already_present, 1u);
}

TEST_F(PieceWriterTest, NoRoomAndTooLargeAreRejectedAndPassedOver) {
  const PieceShape large = {.layers = 5, .slice_bytes = 9000};
  ASSERT_TRUE(Header(1, large).ok());
  for (uint32_t layer = 0; layer < 5; ++layer) {
    ASSERT_TRUE(Part(1, layer, 0, 9000, 0, large).ok());
  }
  const PieceShape too_large = {.layers = 1, .slice_bytes = 10001};
  ASSERT_TRUE(Header(2, too_large).ok());
  ASSERT_TRUE(Part(2, 0, 0, 10001, 0, too_large).ok());
  StoreWhole(3);
  EXPECT_EQ(writer_.counts().rejected, 2u);
  EXPECT_EQ(writer_.counts().stored, 1u);
}

TEST_F(PieceWriterTest, WrongChecksumIsDataLoss) {
  ASSERT_TRUE(Header(1).ok());
  EXPECT_EQ(Part(1, 0, 0, 6000, 1).code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(Stored(1));
  EXPECT_EQ(store_.Stats()[0].used_bytes, 0u);
}

TEST_F(PieceWriterTest, OrderAndSizes) {
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(Part(1, 0, 0, 10).code(), kInvalid) << "no header";
  EXPECT_EQ(writer_.AddHeader("short", kShape, "").code(), kInvalid);
  EXPECT_EQ(Header(1, {0, 10}).code(), kInvalid);
  EXPECT_EQ(Header(1, {10, 0}).code(), kInvalid);
  ASSERT_TRUE(Header(1).ok());
  EXPECT_EQ(Header(2).code(), kInvalid) << "the first is not finished";
  EXPECT_EQ(Part(1, 1, 0, 6000).code(), kInvalid) << "layer 0 skipped";
  EXPECT_EQ(Part(1, 0, 1, 100).code(), kInvalid) << "byte 0 skipped";
  EXPECT_EQ(Part(1, 0, 0, 6001).code(), kInvalid) << "too long";
  EXPECT_EQ(Part(1, 0, 0, 0).code(), kInvalid) << "empty";
  ASSERT_TRUE(Part(1, 0, 0, 3000).ok());
  EXPECT_EQ(Part(1, 0, 3000, 3000, 1).code(), kInvalid) << "another checksum";
}

}  // namespace
}  // namespace tessera::testing
