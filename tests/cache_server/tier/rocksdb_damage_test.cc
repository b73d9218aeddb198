// Damage to the files of a RocksDB tier: a miss for what was hit, right bytes for all else, and a
// tier that goes on.
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "cache_server/tier/rocksdb_open.h"
#include "cache_server/tier/rocksdb_tier.h"
#include "gtest/gtest.h"
#include "rocksdb/db.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/tier/rocksdb_folders.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 3, .slice_bytes = 32 << 10};
constexpr uint32_t kPieces = 24;

std::fstream OpenToDamage(const std::string& file) {
  return std::fstream(file, std::ios::in | std::ios::out | std::ios::binary);
}

void FlipBit(std::fstream& stream, uint64_t at) {
  stream.seekg(static_cast<std::streamoff>(at));
  const char byte = static_cast<char>(stream.get() ^ 0x04);
  stream.seekp(static_cast<std::streamoff>(at));
  stream.put(byte);
}

void FlipBit(const std::string& file, uint64_t at) {
  std::fstream stream = OpenToDamage(file);
  FlipBit(stream, at);
  ASSERT_TRUE(stream.good()) << file;
}

// Flips bits all over a file of a live tier. False: a compaction deleted the file meanwhile.
bool FlipBitsAllOver(const std::string& file) {
  std::fstream stream = OpenToDamage(file);
  if (!stream.is_open()) return false;
  stream.seekg(0, std::ios::end);
  const auto size = static_cast<uint64_t>(stream.tellg());
  for (uint64_t at = 40; at < size; at += 200) FlipBit(stream, at);
  EXPECT_TRUE(stream.good()) << file;
  stream.close();
  return std::filesystem::exists(file);
}

void Truncate(const std::string& file, double share) {
  std::filesystem::resize_file(
      file, static_cast<uint64_t>(share * static_cast<double>(std::filesystem::file_size(file))));
}

std::string ManifestOf(const std::string& folder) {
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().filename().string().rfind("MANIFEST-", 0) == 0) return file.path();
  }
  ADD_FAILURE() << "no manifest in " << folder;
  return "";
}

class RocksdbDamageTest : public ::testing::Test {
 protected:
  // A folder of kPieces pieces in three blob files and tables, then closed.
  void Write() {
    const auto tier = OpenTier(options_);
    for (uint32_t number = 0; number < kPieces; ++number) {
      ASSERT_TRUE(PutTestPiece(tier.get(), number, kShape).ok());
      if (number % 8 == 7) {
        ASSERT_TRUE(tier->Flush().ok());
      }
    }
  }

  // Opens it again, and looks at everything: how many pieces are still right. None may be wrong.
  uint32_t CountRight(Tier* tier) {
    uint32_t right = 0;
    for (uint32_t number = 0; number < kPieces; ++number) {
      const bool found = tier->Find(TestKey(number)).has_value();
      const auto handle = tier->Get(TestKey(number));
      if (handle.ok()) {
        EXPECT_TRUE(HoldsTestPiece(*handle, number)) << number;
        ++right;
        continue;
      }
      // Damage is told once, then it is a miss.
      EXPECT_EQ(handle.status().code(),
                found ? absl::StatusCode::kDataLoss : absl::StatusCode::kNotFound)
          << handle.status();
      EXPECT_EQ(tier->Get(TestKey(number)).status().code(), absl::StatusCode::kNotFound);
      EXPECT_FALSE(tier->Find(TestKey(number)).has_value());
    }
    return right;
  }

  // Whether new pieces, and those that were lost, can be stored, are read, and outlive the tier.
  void ExpectWorks(std::unique_ptr<Tier> tier) {
    for (uint32_t number = 0; number < kPieces + 4; ++number) {
      const absl::Status put = PutTestPiece(tier.get(), number, kShape);
      EXPECT_TRUE(put.ok() || absl::IsAlreadyExists(put)) << put;
    }
    EXPECT_TRUE(tier->Flush().ok());
    tier.reset();
    tier = OpenTier(options_);
    EXPECT_EQ(CountRight(tier.get()), kPieces);
    EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(kPieces)), kPieces));
  }

  // The folder as RocksDB sees it.
  std::unique_ptr<rocksdb::DB> OpenRaw() {
    rocksdb::DB* database = nullptr;
    EXPECT_TRUE(rocksdb::DB::Open({}, options_.folder, &database).ok());
    return std::unique_ptr<rocksdb::DB>(database);
  }

  std::vector<std::string> Blobs() { return FilesEndingIn(options_.folder, ".blob"); }
  std::vector<std::string> Tables() { return FilesEndingIn(options_.folder, ".sst"); }

  const TestFolder folder_;
  RocksdbTierOptions options_ = SmallTierOptions(folder_.tier());
};

TEST_F(RocksdbDamageTest, AFlippedBitCostsOnePiece) {
  Write();
  ASSERT_EQ(Blobs().size(), 3u);
  FlipBit(Blobs()[1], 100 << 10);
  auto tier = OpenTier(options_);
  EXPECT_EQ(tier->Stats().entries, kPieces);
  EXPECT_EQ(CountRight(tier.get()), kPieces - 1);
  EXPECT_EQ(tier->Stats().evictions[static_cast<size_t>(EvictionReason::kDamaged)], 1u);
  ExpectWorks(std::move(tier));
}

// Also in the keys and headers between the payloads: wherever the bit is, no wrong byte comes out.
TEST_F(RocksdbDamageTest, ManyFlippedBits) {
  Write();
  for (const std::string& blob : Blobs()) {
    const uint64_t size = std::filesystem::file_size(blob);
    for (uint64_t at = 0; at < size; at += 61 * 1024) FlipBit(blob, at);
  }
  auto tier = OpenTier(options_);
  EXPECT_LT(CountRight(tier.get()), kPieces);
  ExpectWorks(std::move(tier));
}

TEST_F(RocksdbDamageTest, ATruncatedBlobFile) {
  Write();
  Truncate(Blobs()[0], 0.5);
  auto tier = OpenTier(options_);
  const uint32_t right = CountRight(tier.get());
  EXPECT_LT(right, kPieces);
  EXPECT_GE(right, kPieces - 8);
  ExpectWorks(std::move(tier));
}

TEST_F(RocksdbDamageTest, AMissingBlobFile) {
  Write();
  std::filesystem::remove(Blobs()[2]);
  auto tier = OpenTier(options_);
  EXPECT_EQ(CountRight(tier.get()), kPieces - 8);
  ExpectWorks(std::move(tier));
}

TEST_F(RocksdbDamageTest, AMissingTable) {
  Write();
  ASSERT_FALSE(Tables().empty());
  std::filesystem::remove(Tables().back());
  auto tier = OpenTier(options_);
  EXPECT_LT(CountRight(tier.get()), kPieces);
  ExpectWorks(std::move(tier));
}

TEST_F(RocksdbDamageTest, ATruncatedTable) {
  Write();
  Truncate(Tables().front(), 0.7);
  auto tier = OpenTier(options_);
  CountRight(tier.get());
  ExpectWorks(std::move(tier));
}

TEST_F(RocksdbDamageTest, FlippedBitsInTables) {
  Write();
  for (const std::string& table : Tables()) {
    const uint64_t size = std::filesystem::file_size(table);
    for (uint64_t at = 20; at < size; at += size / 7) FlipBit(table, at);
  }
  auto tier = OpenTier(options_);
  CountRight(tier.get());
  ExpectWorks(std::move(tier));
}

// A record that nobody can read leaves slices behind; they must not stay for ever.
TEST_F(RocksdbDamageTest, ABrokenRecordCostsItsPieceAndLeavesNothing) {
  Write();
  const std::string lost = SliceKey(TestKey(5), 1);
  const std::string kept = SliceKey(TestKey(6), 1);
  std::string value;
  {
    const auto database = OpenRaw();
    ASSERT_TRUE(database->Get({}, lost, &value).ok());
    ASSERT_TRUE(database->Put({}, RecordKey(TestKey(5)), "what is this").ok());
  }
  {
    const auto tier = OpenTier(options_);
    EXPECT_EQ(CountRight(tier.get()), kPieces - 1);
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (MediumFigure(*tier, "blob_garbage_bytes") < kShape.bytes() && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(10));  // the tier cleans up on its own thread
    }
  }
  {
    const auto database = OpenRaw();
    EXPECT_TRUE(database->Get({}, lost, &value).IsNotFound());
    EXPECT_TRUE(database->Get({}, kept, &value).ok());
  }
  ExpectWorks(OpenTier(options_));
}

TEST_F(RocksdbDamageTest, ATruncatedManifest) {
  for (const double share : {0.0, 0.3, 0.9}) {
    Write();
    Truncate(ManifestOf(options_.folder), share);
    auto tier = OpenTier(options_);
    CountRight(tier.get());
    ExpectWorks(std::move(tier));
    std::filesystem::remove_all(options_.folder);
  }
}

TEST_F(RocksdbDamageTest, AMissingManifest) {
  Write();
  std::filesystem::remove(ManifestOf(options_.folder));
  auto tier = OpenTier(options_);
  CountRight(tier.get());
  ExpectWorks(std::move(tier));
}

TEST_F(RocksdbDamageTest, ATruncatedCurrentFile) {
  for (const double share : {0.0, 0.5}) {
    Write();
    Truncate(options_.folder + "/CURRENT", share);
    auto tier = OpenTier(options_);
    EXPECT_EQ(CountRight(tier.get()), kPieces) << "the pieces themselves are whole";
    ExpectWorks(std::move(tier));
    std::filesystem::remove_all(options_.folder);
  }
}

TEST_F(RocksdbDamageTest, AMissingCurrentFile) {
  Write();
  std::filesystem::remove(options_.folder + "/CURRENT");
  auto tier = OpenTier(options_);
  EXPECT_EQ(CountRight(tier.get()), kPieces) << "the pieces themselves are whole";
  ExpectWorks(std::move(tier));
}

// A tier of 64 MiB that is open while its files are damaged. Then so much is written that RocksDB
// must rewrite what was damaged.
class RocksdbLiveDamageTest : public RocksdbDamageTest {
 protected:
  static constexpr PieceShape kLiveShape = {.layers = 4, .slice_bytes = 128 << 10};

  std::unique_ptr<Tier> Fill() {
    options_.capacity_bytes = 64 << 20;
    auto tier = OpenTier(options_);
    for (uint32_t number = 0; number < 80; ++number) {
      EXPECT_TRUE(PutTestPiece(tier.get(), number, kLiveShape).ok());
    }
    EXPECT_TRUE(tier->Flush().ok());
    return tier;
  }

  // Writes `count` pieces, waiting where the tier takes none for a while.
  static void Churn(Tier* tier, uint32_t first, uint32_t count) {
    int waits = 0;
    for (uint32_t number = first; number < first + count;) {
      const absl::Status put = PutTestPiece(tier, number, kLiveShape);
      if (put.ok()) {
        ++number;
        continue;
      }
      ASSERT_EQ(put.code(), absl::StatusCode::kResourceExhausted) << put;
      ASSERT_LT(++waits, 1500) << "no piece was taken for long: " << put;
      absl::SleepFor(absl::Milliseconds(20));
    }
  }

  static void ExpectNoWrongByte(Tier* tier, uint32_t pieces) {
    uint32_t right = 0;
    for (uint32_t number = 0; number < pieces; ++number) {
      const auto handle = tier->Get(TestKey(number));
      if (!handle.ok()) continue;
      EXPECT_TRUE(HoldsTestPiece(*handle, number)) << number;
      ++right;
    }
    EXPECT_GT(right, 30u);
  }
};

TEST_F(RocksdbLiveDamageTest, DamagedSlicesDoNotStopTheirSpaceFromComingBack) {
  auto tier = Fill();
  for (const std::string& blob : Blobs()) {
    const uint64_t size = std::filesystem::file_size(blob);
    for (uint64_t at = 70 << 10; at < size; at += 600 << 10) FlipBit(blob, at);
  }
  // Old pieces that are read stay, in old files: those have to be moved.
  for (uint32_t round = 0; round < 8; ++round) {
    Churn(tier.get(), 100 + 50 * round, 50);
    for (uint32_t number = 0; number < 80; number += 3) (void)tier->Get(TestKey(number));
  }
  EXPECT_LE(MediumFigure(*tier, "folder_bytes"), 1.05 * options_.capacity_bytes);
  ExpectNoWrongByte(tier.get(), 500);
}

TEST_F(RocksdbLiveDamageTest, DamagedTablesAreGivenUp) {
  auto tier = Fill();
  int damaged = 0;
  for (const std::string& table : Tables()) damaged += FlipBitsAllOver(table) ? 1 : 0;
  EXPECT_GT(damaged, 0) << "compactions deleted every table";
  Churn(tier.get(), 100, 400);
  EXPECT_LE(MediumFigure(*tier, "folder_bytes"), 1.05 * options_.capacity_bytes);
  ExpectNoWrongByte(tier.get(), 500);
}

}  // namespace
}  // namespace tessera::testing
