#include "cache_server/client/fetch_progress.h"

#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "cache_server/chunk/checksum.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 3, .slice_bytes = 1000};

class FetchProgressTest : public ::testing::Test {
 protected:
  FetchProgressTest() : memory_(2 * kShape.bytes()), progress_(Targets()) {}

  std::vector<FetchTarget> Targets() {
    std::vector<FetchTarget> targets;
    for (uint32_t i = 0; i < 2; ++i) {
      targets.push_back(
          {TestKey(i), kShape.layers, kShape.slice_bytes, memory_.data() + i * kShape.bytes()});
    }
    return targets;
  }

  void AddHeader() {
    const HeaderEntry entry = {true, kShape.layers, kShape.slice_bytes, "ram"};
    progress_.SetHeader(0, {entry, entry});
  }

  // Delivers bytes [offset, offset + size) of a slice of test piece `target`.
  absl::Status Add(uint32_t target, uint32_t layer, uint64_t offset, uint64_t size,
                   uint64_t checksum_error = 0) {
    std::vector<std::byte> bytes = TestBytes(target, kShape);
    bytes.resize(bytes.size() + 5000);  // so that a test may send too much
    const auto slice =
        absl::MakeConstSpan(bytes).subspan(layer * kShape.slice_bytes, kShape.slice_bytes);
    const SlicePart part = {.key_index = target,
                            .layer = layer,
                            .offset = offset,
                            .checksum = SliceChecksum(slice) + checksum_error};
    std::string wire = EncodeSlicePrefix(part, size);
    wire.append(reinterpret_cast<const char*>(slice.data() + offset), size);
    const absl::Span<const std::byte> fragment(reinterpret_cast<const std::byte*>(wire.data()),
                                               wire.size());
    const auto message = ReceivedMessage::Parse({&fragment, 1});
    return progress_.AddPart(target, *message, count_);
  }

  bool Ready(size_t target, uint32_t layer) {
    return progress_.WaitForSlice(target, layer, absl::InfinitePast());
  }

  std::vector<std::byte> memory_;
  FetchProgress progress_;
  uint64_t bytes_ = 0;
  const std::function<void(uint64_t)> count_ = [this](uint64_t bytes) { bytes_ += bytes; };
};

TEST_F(FetchProgressTest, SlicesBecomeReadyWhenWhole) {
  AddHeader();
  ASSERT_TRUE(Add(0, 0, 0, 400).ok());
  ASSERT_TRUE(Add(0, 0, 400, 600).ok());
  ASSERT_TRUE(Add(1, 0, 0, 1000).ok());
  EXPECT_TRUE(Ready(0, 0));
  EXPECT_TRUE(Ready(1, 0));
  EXPECT_EQ(bytes_, 2000u);
  EXPECT_FALSE(progress_.IsComplete(0, 2));
  const std::vector<std::byte> wanted = TestBytes(1, kShape);
  EXPECT_EQ(std::memcmp(memory_.data() + kShape.bytes(), wanted.data(), 1000), 0);
}

TEST_F(FetchProgressTest, OtherSizesAreAMiss) {
  progress_.SetHeader(0, {{true, 2, 1000, "ram"}, {true, 3, 999, "ram"}});
  EXPECT_EQ(progress_.Tiers(), (std::vector<std::string>{"", ""}));
  EXPECT_TRUE(progress_.IsComplete(0, 2));
  EXPECT_FALSE(progress_.WaitForSlice(0, 0, absl::InfiniteFuture()));
  // What the server sends for it anyway is passed over.
  EXPECT_TRUE(Add(0, 0, 0, 1000).ok());
  EXPECT_EQ(bytes_, 0u);
}

TEST_F(FetchProgressTest, WrongChecksumLosesOnlyThatPiece) {
  AddHeader();
  ASSERT_TRUE(Add(0, 0, 0, 1000).ok());
  EXPECT_EQ(Add(0, 1, 0, 1000, 1).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(progress_.WaitForSlice(0, 0, absl::InfiniteFuture()));
  EXPECT_FALSE(progress_.WaitForSlice(0, 1, absl::InfiniteFuture()));
  EXPECT_FALSE(progress_.WaitForSlice(0, 2, absl::InfiniteFuture()));
  EXPECT_TRUE(Add(1, 0, 0, 1000).ok());
  EXPECT_TRUE(Ready(1, 0));
}

TEST_F(FetchProgressTest, PartsOutOfOrderAreErrors) {
  EXPECT_EQ(Add(0, 0, 0, 1000).code(), absl::StatusCode::kInvalidArgument) << "before the header";
  AddHeader();
  EXPECT_EQ(Add(0, 1, 0, 1000).code(), absl::StatusCode::kInvalidArgument) << "layer skipped";
  EXPECT_FALSE(Ready(0, 0));
  ASSERT_TRUE(Add(1, 0, 0, 500).ok());
  EXPECT_EQ(Add(1, 0, 501, 10).code(), absl::StatusCode::kInvalidArgument) << "gap";
  const auto message = ReceivedMessage::Parse({});
  EXPECT_EQ(progress_.AddPart(2, *message, count_).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FetchProgressTest, TooLongPartIsNotWritten) {
  AddHeader();
  EXPECT_EQ(Add(1, 0, 0, 1001).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bytes_, 0u);
}

TEST_F(FetchProgressTest, ALaterHeaderTakesBack) {
  AddHeader();
  ASSERT_TRUE(Add(0, 0, 0, 1000).ok());
  ASSERT_TRUE(Add(1, 0, 0, 1000).ok());
  std::thread taker([this] {
    const HeaderEntry found = {true, kShape.layers, kShape.slice_bytes, "ram"};
    progress_.SetHeader(0, {found, HeaderEntry()});
  });
  EXPECT_FALSE(progress_.WaitForSlice(1, 1, absl::InfiniteFuture()));
  taker.join();
  EXPECT_TRUE(Ready(1, 0)) << "what had come";
  EXPECT_TRUE(Add(0, 1, 0, 1000).ok()) << "the other goes on";
  EXPECT_TRUE(Ready(0, 1));
  ASSERT_TRUE(Add(0, 2, 0, 1000).ok());
  EXPECT_TRUE(progress_.IsComplete(0, 2));
  AddHeader();
  EXPECT_FALSE(progress_.WaitForSlice(1, 1, absl::InfiniteFuture())) << "a miss stays one";
}

TEST_F(FetchProgressTest, TargetsWithoutMemoryGetSome) {
  FetchProgress progress({{TestKey(0), kShape.layers, kShape.slice_bytes}});
  progress.SetHeader(0, {{true, kShape.layers, kShape.slice_bytes, "ram"}});
  const std::vector<std::byte> bytes = TestBytes(0, kShape);
  const absl::Span<const std::byte> slice(bytes.data(), kShape.slice_bytes);
  std::string wire = EncodeSlicePrefix({.checksum = SliceChecksum(slice)}, slice.size());
  wire.append(reinterpret_cast<const char*>(slice.data()), slice.size());
  const absl::Span<const std::byte> fragment(reinterpret_cast<const std::byte*>(wire.data()),
                                             wire.size());
  ASSERT_TRUE(progress.AddPart(0, *ReceivedMessage::Parse({&fragment, 1}), count_).ok());
  ASSERT_TRUE(progress.WaitForSlice(0, 0, absl::InfiniteFuture()));
  EXPECT_EQ(progress.ReadyLayers(0), 1u);
  EXPECT_TRUE(progress.Slices(0, 0, 1) == slice);
}

TEST_F(FetchProgressTest, NothingBehindTheFirstMiss) {
  progress_.SetHeader(0, {HeaderEntry(), {true, kShape.layers, kShape.slice_bytes, "ram"}});
  progress_.CloseAfterFirstMiss();
  EXPECT_EQ(progress_.Tiers(), (std::vector<std::string>{"", ""}));
  EXPECT_FALSE(progress_.WaitForSlice(1, 0, absl::InfiniteFuture()));
}

TEST_F(FetchProgressTest, CloseWakesWaiters) {
  AddHeader();
  std::thread closer([this] { progress_.Close(0, 2); });
  EXPECT_FALSE(progress_.WaitForSlice(1, 2, absl::InfiniteFuture()));
  closer.join();
}

TEST_F(FetchProgressTest, TooLateIsFinal) {
  AddHeader();
  EXPECT_FALSE(Ready(0, 0));
  ASSERT_TRUE(Add(0, 0, 0, 1000).ok());
  EXPECT_FALSE(progress_.WaitForSlice(0, 0, absl::InfiniteFuture()));
}

TEST_F(FetchProgressTest, HeaderWaitEnds) {
  EXPECT_FALSE(progress_.WaitForHeader(0, 2, absl::Now() + absl::Milliseconds(10)));
  AddHeader();
  EXPECT_TRUE(progress_.WaitForHeader(0, 2, absl::InfiniteFuture()));
  EXPECT_EQ(progress_.Tiers(), (std::vector<std::string>{"ram", "ram"}));
}

}  // namespace
}  // namespace tessera::testing
