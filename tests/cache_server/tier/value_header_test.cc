#include "cache_server/tier/value_header.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "cache_server/chunk/checksum.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {
namespace {

constexpr uint64_t kPayloadBytes = 1000;

SliceHeader TestHeader() {
  return {.key = TestKey(7), .layer = 29, .payload_bytes = kPayloadBytes, .checksum = 0x1234};
}

PieceRecord TestRecord() {
  return {.key = TestKey(8),
          .shape = {.layers = 30, .slice_bytes = 196608},
          .tenant = MakeTenant("someone"),
          .added = absl::FromUnixMillis(1'700'000'000'123)};
}

// A slice as it lies on the disk.
std::vector<std::byte> StoredSlice(const ChunkKey& key, uint32_t layer) {
  const std::vector<std::byte> payload = TestBytes(1, {.layers = 1, .slice_bytes = kPayloadBytes});
  const auto header = EncodeSliceHeader({.key = key,
                                         .layer = layer,
                                         .payload_bytes = payload.size(),
                                         .checksum = SliceChecksum(payload)});
  std::vector<std::byte> stored(header.size() + payload.size());
  std::copy(header.begin(), header.end(), stored.begin());
  std::copy(payload.begin(), payload.end(), stored.begin() + header.size());
  return stored;
}

absl::Status CheckStored(absl::Span<const std::byte> stored) {
  uint64_t checksum = 0;
  return CheckedPayload(stored, TestKey(1), 3, kPayloadBytes, &checksum).status();
}

TEST(ValueHeaderTest, WhatIsEncodedIsParsed) {
  const auto slice = EncodeSliceHeader(TestHeader());
  const auto header = ParseSliceHeader(slice);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(*header, TestHeader());
  const auto bytes = EncodePieceRecord(TestRecord());
  const auto record = ParsePieceRecord(bytes);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(*record, TestRecord());
}

// The format is on people's disks: these bytes never change for version 1.
TEST(ValueHeaderTest, TheBytesAreAsDocumented) {
  const auto slice = EncodeSliceHeader(TestHeader());
  const std::string head(reinterpret_cast<const char*>(slice.data()), 12);
  EXPECT_EQ(head, std::string("TSLC\x01\0\0\0\x1d\0\0\0", 12));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(slice.data()) + 48, 16),
            std::string("\xe8\x03\0\0\0\0\0\0\x34\x12\0\0\0\0\0\0", 16));
  const auto record = EncodePieceRecord(TestRecord());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(record.data()), 12),
            std::string("TPCE\x01\0\0\0\x1e\0\0\0", 12));
}

TEST(ValueHeaderTest, EveryFlippedBitIsRefused) {
  auto slice = EncodeSliceHeader(TestHeader());
  for (size_t bit = 0; bit < 8 * slice.size(); ++bit) {
    slice[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_EQ(ParseSliceHeader(slice).status().code(), absl::StatusCode::kDataLoss) << bit;
    slice[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  auto record = EncodePieceRecord(TestRecord());
  for (size_t bit = 0; bit < 8 * record.size(); ++bit) {
    record[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_EQ(ParsePieceRecord(record).status().code(), absl::StatusCode::kDataLoss) << bit;
    record[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST(ValueHeaderTest, EveryOtherLengthIsRefused) {
  const auto slice = EncodeSliceHeader(TestHeader());
  for (size_t size = 0; size < slice.size(); ++size) {
    EXPECT_FALSE(ParseSliceHeader({slice.data(), size}).ok()) << size;
  }
  const auto record = EncodePieceRecord(TestRecord());
  for (size_t size = 0; size < record.size(); ++size) {
    EXPECT_FALSE(ParsePieceRecord({record.data(), size}).ok()) << size;
  }
  std::vector<std::byte> longer(record.size() + 1);
  std::copy(record.begin(), record.end(), longer.begin());
  EXPECT_FALSE(ParsePieceRecord(longer).ok());
}

TEST(ValueHeaderTest, RandomBytesAreRefused) {
  std::mt19937 random(3);
  std::vector<std::byte> bytes(kPieceRecordBytes);
  for (int round = 0; round < 10000; ++round) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    EXPECT_FALSE(ParseSliceHeader(bytes).ok());
    EXPECT_FALSE(ParsePieceRecord(bytes).ok());
  }
}

TEST(ValueHeaderTest, ARecordOfAnImpossibleShapeIsRefused) {
  PieceRecord record = TestRecord();
  record.shape = {.layers = 0, .slice_bytes = 1};
  EXPECT_FALSE(ParsePieceRecord(EncodePieceRecord(record)).ok());
  record.shape = {.layers = 2, .slice_bytes = UINT64_MAX};
  EXPECT_FALSE(ParsePieceRecord(EncodePieceRecord(record)).ok());
}

TEST(ValueHeaderTest, APayloadIsGivenOutOnlyWhenAllOfItIsRight) {
  std::vector<std::byte> stored = StoredSlice(TestKey(1), 3);
  uint64_t checksum = 0;
  const auto payload = CheckedPayload(stored, TestKey(1), 3, kPayloadBytes, &checksum);
  ASSERT_TRUE(payload.ok()) << payload.status();
  EXPECT_EQ(payload->data(), stored.data() + kSliceHeaderBytes);
  EXPECT_EQ(payload->size(), kPayloadBytes);
  EXPECT_EQ(checksum, SliceChecksum(*payload));
  for (size_t at = 0; at < stored.size(); ++at) {
    stored[at] ^= std::byte{0x10};
    EXPECT_EQ(CheckStored(stored).code(), absl::StatusCode::kDataLoss) << at;
    stored[at] ^= std::byte{0x10};
  }
  EXPECT_TRUE(CheckStored(stored).ok());
}

TEST(ValueHeaderTest, ARightSliceOfAnotherPlaceIsRefused) {
  EXPECT_FALSE(CheckStored(StoredSlice(TestKey(2), 3)).ok()) << "another key";
  EXPECT_FALSE(CheckStored(StoredSlice(TestKey(1), 4)).ok()) << "another layer";
  const std::vector<std::byte> stored = StoredSlice(TestKey(1), 3);
  EXPECT_FALSE(CheckStored({stored.data(), stored.size() - 1}).ok()) << "cut short";
  uint64_t checksum = 0;
  EXPECT_FALSE(CheckedPayload(stored, TestKey(1), 3, kPayloadBytes - 1, &checksum).ok());
}

}  // namespace
}  // namespace tessera::testing
