#include "gpu_worker/calibrate/resident_cache.h"

#include "gtest/gtest.h"

namespace tessera {
namespace {

ChunkKey Key(uint8_t name) {
  ChunkKey key;
  key.bytes[0] = name;
  return key;
}

TEST(ResidentCacheTest, GivesBackWhatWasStoredAndNothingElse) {
  ResidentCache cache;
  std::vector<std::byte> bytes(12);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  EXPECT_EQ(cache.Store({{Key(1), 3, 4, bytes.data()}}, absl::Seconds(1)), 1u);
  EXPECT_EQ(cache.Store({{Key(1), 3, 4, bytes.data()}}, absl::Seconds(1)), 0u);
  EXPECT_EQ(cache.FindMissing({Key(1), Key(2)}, absl::Seconds(1)),
            (std::vector<bool>{false, true}));
  std::vector<std::byte> copy(12), other(12);
  // The second is not there, the third is there with other sizes, the last has no memory.
  const auto stream = cache.Fetch({{Key(1), 3, 4, copy.data()},
                                   {Key(2), 3, 4, other.data()},
                                   {Key(1), 2, 6, other.data()},
                                   {Key(1), 3, 4, nullptr}},
                                  {});
  EXPECT_EQ(stream->WaitForHeader(), (std::vector<std::string>{"ram", "", "", "ram"}));
  EXPECT_EQ(copy, bytes);
  EXPECT_TRUE(stream->WaitForSlice(0, 2));
  EXPECT_FALSE(stream->WaitForSlice(1, 0));
  EXPECT_FALSE(stream->WaitForSlice(2, 0));
  EXPECT_EQ(stream->Slice(0, 2).data(), copy.data() + 8);
  EXPECT_EQ(stream->Slice(3, 1)[0], bytes[4]);
  EXPECT_EQ(stream->Slice(3, 1).size(), 4u);
  stream->Cancel();
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
}

TEST(ResidentCacheTest, AChainEndsAtItsFirstMissAndClearForgets) {
  ResidentCache cache;
  const std::vector<std::byte> bytes(4);
  cache.Store({{Key(1), 1, 4, bytes.data()}, {Key(3), 1, 4, bytes.data()}}, absl::Seconds(1));
  std::vector<FetchTarget> chain = {
      {Key(1), 1, 4, nullptr}, {Key(2), 1, 4, nullptr}, {Key(3), 1, 4, nullptr}};
  EXPECT_EQ(cache.Fetch(chain, {.stop_at_first_miss = true})->WaitForHeader(),
            (std::vector<std::string>{"ram", "", ""}));
  EXPECT_EQ(cache.Fetch(chain, {})->WaitForHeader(), (std::vector<std::string>{"ram", "", "ram"}));
  cache.Clear();
  EXPECT_EQ(cache.Fetch(chain, {})->WaitForHeader(), (std::vector<std::string>{"", "", ""}));
}

}  // namespace
}  // namespace tessera
