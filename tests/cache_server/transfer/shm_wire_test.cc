#include "cache_server/transfer/shm_wire.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace tessera {
namespace {

ChunkKey Key(uint8_t first) {
  ChunkKey key;
  key.bytes[0] = first;
  return key;
}

TEST(ShmWireTest, FixedPartAndRecords) {
  const std::vector<ChunkKey> keys = {Key(1), Key(2)};
  const ShmAcquire acquire = {.stop_at_first_miss = 1};
  const ShmPacket packet = MakeShmPacket(ShmType::kAcquire, 7, acquire, absl::MakeConstSpan(keys));
  EXPECT_EQ(packet.size(), 16u + 8 + 2 * 32) << "the protocol's bytes";
  const auto head = ReadShmHead(packet);
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(head->type, 2u);
  EXPECT_EQ(head->count, 2u);
  EXPECT_EQ(head->call, 7u);
  EXPECT_EQ((ReadShmFixed<ShmAcquire, ChunkKey>(packet, 2)->stop_at_first_miss), 1u);
  EXPECT_EQ((*ReadShmRecords<ChunkKey, ShmAcquire>(packet, 2)), keys);
  EXPECT_FALSE((ReadShmRecords<ChunkKey, ShmAcquire>(packet, 1)).ok()) << "too many";
}

TEST(ShmWireTest, SizesThatDoNotMatch) {
  ShmPacket packet = MakeShmPacket(ShmType::kPut, 1, ShmPut{});
  EXPECT_TRUE(ReadShmFixed<ShmPut>(packet).ok());
  packet.push_back(std::byte{0});
  EXPECT_FALSE(ReadShmFixed<ShmPut>(packet).ok()) << "a byte too many";
  packet.resize(packet.size() - 2);
  EXPECT_FALSE(ReadShmFixed<ShmPut>(packet).ok()) << "a byte too few";
  EXPECT_FALSE(ReadShmHead(absl::MakeConstSpan(packet).first(15)).ok());
  const std::vector<ChunkKey> none;
  const ShmPacket empty = MakeShmPacket(ShmType::kFind, 1, ShmNothing(), absl::MakeConstSpan(none));
  EXPECT_TRUE(ReadShmRecords<ChunkKey>(empty, 10)->empty());
}

TEST(ShmWireTest, Texts) {
  EXPECT_EQ(*ReadShmText(MakeShmText(ShmType::kHello, 1, "secret")), "secret");
  EXPECT_EQ(*ReadShmText(MakeShmText(ShmType::kHello, 1, "")), "");
  const std::string longest(kMostShmTokenBytes + 1, 'x');
  EXPECT_EQ(ReadShmText(MakeShmText(ShmType::kFailed, 1, longest))->size(), kMostShmTokenBytes);
  EXPECT_EQ(ReadShmName(ShmName<16>("ram")), "ram");
  EXPECT_EQ(ReadShmName(ShmName<4>("rocksdb")), "rock");
}

TEST(ShmWireTest, RandomBytesNeverPassForMore) {
  std::minstd_rand random(3);
  for (int i = 0; i < 20000; ++i) {
    ShmPacket packet(random() % 200);
    for (std::byte& byte : packet) byte = static_cast<std::byte>(random() % 4 == 0 ? random() : 0);
    const auto records = ReadShmRecords<ShmPlace, ShmLease>(packet, kMostShmKeys);
    if (records.ok()) {
      EXPECT_EQ(packet.size(), 16 + 16 + records->size() * 48);
    }
    const auto text = ReadShmText(packet);
    if (text.ok()) {
      EXPECT_EQ(text->size(), packet.size() - 16);
    }
  }
}

TEST(ShmWireTest, PlacesMustLieInTheMemory) {
  constexpr uint64_t kMemory = 1 << 20;
  const ShmPlace right = {
      .layers = 4, .slice_bytes = 1000, .slices_at = 4096, .checksums_at = 8096};
  EXPECT_TRUE(ShmPlaceFits(right, kMemory));
  const auto with = [&right](auto change) {
    ShmPlace place = right;
    change(&place);
    return ShmPlaceFits(place, kMemory);
  };
  EXPECT_TRUE(with([](ShmPlace* p) { p->slices_at = kMemory - 4000; }));
  EXPECT_FALSE(with([](ShmPlace* p) { p->slices_at = kMemory - 3999; }));
  EXPECT_FALSE(with([](ShmPlace* p) { p->slices_at = UINT64_MAX - 1000; }));
  EXPECT_TRUE(with([](ShmPlace* p) { p->checksums_at = kMemory - 32; }));
  EXPECT_FALSE(with([](ShmPlace* p) { p->checksums_at = kMemory - 31; }));
  EXPECT_FALSE(with([](ShmPlace* p) { p->checksums_at = UINT64_MAX; }));
  EXPECT_FALSE(with([](ShmPlace* p) { p->layers = 0; }));
  EXPECT_FALSE(with([](ShmPlace* p) { p->layers = UINT32_MAX; }));
  EXPECT_FALSE(with([](ShmPlace* p) { p->slice_bytes = UINT64_MAX / 4; }));
  EXPECT_FALSE(with([](ShmPlace* p) { p->slice_bytes = 0; }));
  EXPECT_EQ(ShmStagedBytes(4, 1000), 4032u);
  EXPECT_EQ(ShmStagedBytes(UINT32_MAX, UINT64_MAX), 0u);
}

}  // namespace
}  // namespace tessera
