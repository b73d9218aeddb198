#include "cache_server/tier/rocksdb_tier.h"

#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/tier/rocksdb_folders.h"
#include "tests/cache_server/tier/tier_conformance.h"

namespace tessera::testing {
namespace {

// A tier and the folder that it lies in. The folder goes last.
class TierInFolder : public Tier {
 public:
  explicit TierInFolder(RocksdbTierOptions options) {
    options.folder = folder_.tier();
    tier_ = OpenTier(options);
  }

  std::optional<PieceShape> Find(const ChunkKey& key) override { return tier_->Find(key); }
  absl::StatusOr<ReadHandle> Get(const ChunkKey& key) override { return tier_->Get(key); }
  absl::StatusOr<WriteHandle> Allocate(const ChunkKey& key, PieceShape shape,
                                       const Tenant& tenant) override {
    return tier_->Allocate(key, shape, tenant);
  }
  absl::StatusOr<ReadHandle> Commit(WriteHandle handle) override {
    return tier_->Commit(std::move(handle));
  }
  absl::Status Erase(const ChunkKey& key) override { return tier_->Erase(key); }
  absl::Status Flush() override { return tier_->Flush(); }
  std::vector<TierEntry> List() const override { return tier_->List(); }
  TierStats Stats() const override { return tier_->Stats(); }

 private:
  TestFolder folder_;
  std::unique_ptr<Tier> tier_;
};

struct RocksdbTierMaker {
  static constexpr bool kPinsBlockEviction = false;
  static constexpr int kStressSteps = 1000;

  static std::unique_ptr<Tier> Make(const TestTierOptions& wanted) {
    RocksdbTierOptions options = SmallTierOptions("");
    const uint64_t piece = RocksdbTierBytes(kShape);
    // Half a byte more, against rounding.
    options.live_share = (static_cast<double>(wanted.pieces * piece) + 0.5) /
                         static_cast<double>(options.capacity_bytes);
    options.tenant_bytes = wanted.tenant_pieces * piece;
    options.on_evicted = wanted.on_evicted;
    return std::make_unique<TierInFolder>(options);
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(RocksdbTier, TierConformance, RocksdbTierMaker);

constexpr PieceShape kBigShape = {.layers = 4, .slice_bytes = 64 << 10};

TEST(RocksdbTierTest, PiecesOutliveTheTier) {
  const TestFolder folder;
  const RocksdbTierOptions options = SmallTierOptions(folder.tier());
  const Tenant tenant = MakeTenant("somebody");
  const absl::Time before = absl::Now();
  {
    const auto tier = OpenTier(options);
    for (uint32_t number = 0; number < 30; ++number) {
      ASSERT_TRUE(PutTestPiece(tier.get(), number, kBigShape, tenant).ok());
    }
    ASSERT_TRUE(tier->Erase(TestKey(7)).ok());
  }
  const auto tier = OpenTier(options);
  EXPECT_EQ(tier->Stats().entries, 29u);
  EXPECT_EQ(tier->Stats().used_bytes, 29 * RocksdbTierBytes(kBigShape));
  for (uint32_t number = 0; number < 30; ++number) {
    const auto handle = tier->Get(TestKey(number));
    ASSERT_EQ(handle.ok(), number != 7) << number << ": " << handle.status();
    if (!handle.ok()) continue;
    EXPECT_TRUE(HoldsTestPiece(*handle, number));
    EXPECT_EQ(handle->tenant(), tenant);
  }
  for (const TierEntry& entry : tier->List()) {
    EXPECT_EQ(entry.tenant, tenant);
    EXPECT_GE(entry.added, before - absl::Milliseconds(1));
    EXPECT_LE(entry.added, absl::Now());
  }
}

// The folder as a process would leave it that was killed: what was flushed is there, whole; what
// was not is gone, whole.
TEST(RocksdbTierTest, AfterFlushPiecesOutliveACrash) {
  const TestFolder folder;
  const RocksdbTierOptions options = SmallTierOptions(folder.tier());
  const auto tier = OpenTier(options);
  for (uint32_t number = 0; number < 5; ++number) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, kShape).ok());
  }
  ASSERT_TRUE(tier->Flush().ok());
  ASSERT_TRUE(PutTestPiece(tier.get(), 5, kShape).ok());
  RocksdbTierOptions crashed = options;
  crashed.folder = folder.path() + "/crashed";
  std::filesystem::copy(options.folder, crashed.folder);
  const auto again = OpenTier(crashed);
  EXPECT_EQ(PiecesIn(again.get(), 0, 6), (std::vector<uint32_t>{0, 1, 2, 3, 4}));
  for (uint32_t number = 0; number < 5; ++number) {
    EXPECT_TRUE(HoldsTestPiece(*again->Get(TestKey(number)), number));
  }
}

TEST(RocksdbTierTest, HandlesNeedNoDatabase) {
  const TestFolder folder;
  auto tier = OpenTier(SmallTierOptions(folder.tier()));
  const PieceShape tiny = {.layers = 2, .slice_bytes = 10};  // lies in a table, not in a blob file
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(tier.get(), 2, tiny).ok());
  ASSERT_TRUE(tier->Flush().ok());
  const ReadHandle blob = *tier->Get(TestKey(1));
  const ReadHandle in_table = *tier->Get(TestKey(2));
  tier.reset();
  EXPECT_TRUE(HoldsTestPiece(blob, 1));
  EXPECT_TRUE(HoldsTestPiece(in_table, 2));
}

TEST(RocksdbTierTest, EvictsInTheOrderOfAddingAfterAReopen) {
  const TestFolder folder;
  RocksdbTierOptions options = SmallTierOptions(folder.tier());
  {
    const auto tier = OpenTier(options);
    for (uint32_t number : {5, 3, 4, 1, 2}) {
      ASSERT_TRUE(PutTestPiece(tier.get(), number, kShape).ok());
      absl::SleepFor(absl::Milliseconds(2));  // so that no two were added in one millisecond
    }
  }
  // Room for three now: the oldest two go at once.
  options.live_share = (3.0 * RocksdbTierBytes(kShape) + 0.5) / options.capacity_bytes;
  const auto tier = OpenTier(options);
  EXPECT_EQ(PiecesIn(tier.get(), 0, 10), (std::vector<uint32_t>{1, 2, 4}));
  ASSERT_TRUE(PutTestPiece(tier.get(), 6, kShape).ok());
  EXPECT_EQ(PiecesIn(tier.get(), 0, 10), (std::vector<uint32_t>{1, 2, 6}));
}

TEST(RocksdbTierTest, UnfinishedWritesHaveALimit) {
  const TestFolder folder;
  RocksdbTierOptions options = SmallTierOptions(folder.tier());
  options.capacity_bytes = uint64_t{8} << 30;  // the limit below is not that of the disk
  const auto tier = OpenTier(options);
  const PieceShape large = {.layers = 1, .slice_bytes = 200 << 20};
  std::optional<WriteHandle> first = *tier->Allocate(TestKey(1), large, Tenant());
  const WriteHandle second = *tier->Allocate(TestKey(2), large, Tenant());
  EXPECT_EQ(tier->Allocate(TestKey(3), large, Tenant()).status().code(),
            absl::StatusCode::kResourceExhausted);
  first.reset();
  EXPECT_TRUE(tier->Allocate(TestKey(3), large, Tenant()).ok());
}

// Three times the folder's limit goes through it. Random pieces stay, so every file has something
// in it that lives.
TEST(RocksdbTierTest, EvictedPiecesGiveTheirSpaceBack) {
  const TestFolder folder;
  RocksdbTierOptions options = SmallTierOptions(folder.tier());
  options.capacity_bytes = 256 << 20;
  options.write_buffer_bytes = 4 << 20;
  const auto tier = OpenTier(options);
  const PieceShape shape = {.layers = 4, .slice_bytes = 256 << 10};
  double highest = 0;
  uint32_t written = 0;
  int refused = 0;
  while (written < 3 * 256) {
    const absl::Status put = PutTestPiece(tier.get(), written, shape);
    if (put.ok()) {
      ++written;
      // Every fourth piece is read again and again while it is there.
      if (written > 100) (void)tier->Get(TestKey((written - 100) / 4 * 4));
    } else {
      ASSERT_EQ(put.code(), absl::StatusCode::kResourceExhausted) << put;
      ASSERT_LT(++refused, 3000) << "the space does not come back";
      absl::SleepFor(absl::Milliseconds(20));  // the tier collects on its own thread
    }
    highest = std::max(highest, MediumFigure(*tier, "folder_bytes"));
  }
  ASSERT_TRUE(tier->Flush().ok());
  std::cout << "highest " << highest / (1 << 20) << " MiB, at the end "
            << MediumFigure(*tier, "folder_bytes") / (1 << 20) << " MiB, refused " << refused
            << "\n";
  EXPECT_LE(highest, 1.05 * options.capacity_bytes);
  EXPECT_LE(MediumFigure(*tier, "folder_bytes"), options.capacity_bytes);
  EXPECT_GT(MediumFigure(*tier, "table_cache_bytes"), 0);
  EXPECT_LE(MediumFigure(*tier, "table_cache_bytes"), 9 << 20) << "the least bound is 8 MiB";
  EXPECT_GT(tier->Stats().entries, 100u);
  for (uint32_t number = 0; number < written; ++number) {
    const auto handle = tier->Get(TestKey(number));
    EXPECT_TRUE(handle.ok() ? HoldsTestPiece(*handle, number) : absl::IsNotFound(handle.status()));
  }
}

TEST(RocksdbTierTest, TheFreeFloorStopsWrites) {
  const TestFolder folder;
  RocksdbTierOptions options = SmallTierOptions(folder.tier());
  {
    const auto tier = OpenTier(options);
    ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  }
  options.free_floor_bytes = uint64_t{1} << 60;
  const auto tier = OpenTier(options);
  EXPECT_EQ(PutTestPiece(tier.get(), 2, kShape).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(MediumFigure(*tier, "refused_floor"), 1);
  EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(1)), 1));
}

TEST(RocksdbTierTest, TwoTiersCannotShareAFolder) {
  const TestFolder folder;
  const auto tier = OpenTier(SmallTierOptions(folder.tier()));
  ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  const auto second = MakeRocksdbTier(SmallTierOptions(folder.tier()));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
  EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(1)), 1));
}

TEST(RocksdbTierTest, AFolderOfSomebodyElseIsLeftAlone) {
  const TestFolder folder;
  const std::string precious = folder.path() + "/precious.txt";
  std::ofstream(precious) << "mine";
  const auto tier = MakeRocksdbTier(SmallTierOptions(folder.path()));
  EXPECT_EQ(tier.status().code(), absl::StatusCode::kFailedPrecondition) << tier.status();
  EXPECT_TRUE(std::filesystem::exists(precious));
  EXPECT_EQ(FilesEndingIn(folder.path(), "").size(), 1u);
}

TEST(RocksdbTierTest, AFolderThatCannotBeMadeIsAnError) {
  const TestFolder folder;
  std::ofstream(folder.path() + "/file") << "x";
  EXPECT_FALSE(MakeRocksdbTier(SmallTierOptions(folder.path() + "/file/pieces")).ok());
}

// A file system of its own at a folder; gone with this object.
class Mount {
 public:
  Mount(const std::string& folder, const std::string& size) : folder_(folder) {
    std::filesystem::create_directory(folder);
    mounted_ = mount("tmpfs", folder.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
  }
  ~Mount() {
    if (mounted_) umount2(folder_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool SetReadOnly(bool read_only) {
    return mount("", folder_.c_str(), "", MS_REMOUNT | (read_only ? MS_RDONLY : 0), "") == 0;
  }

 private:
  const std::string folder_;
  bool mounted_ = false;
};

#define SKIP_UNLESS_MOUNTED(mount) \
  if (!(mount).mounted()) GTEST_SKIP() << "mounting needs root"

TEST(RocksdbTierTest, AReadOnlyFolderIsAnError) {
  const TestFolder folder;
  RocksdbTierOptions options = SmallTierOptions(folder.path() + "/mount");
  options.direct_reads = false;
  Mount mount(options.folder, "64m");
  SKIP_UNLESS_MOUNTED(mount);
  {
    const auto tier = OpenTier(options);
    ASSERT_TRUE(PutTestPiece(tier.get(), 1, kShape).ok());
  }
  ASSERT_TRUE(mount.SetReadOnly(true));
  const auto tier = MakeRocksdbTier(options);
  ASSERT_FALSE(tier.ok());
  EXPECT_NE(tier.status().message().find("Read-only"), absl::string_view::npos) << tier.status();
  ASSERT_TRUE(mount.SetReadOnly(false));
  EXPECT_TRUE(HoldsTestPiece(*OpenTier(options)->Get(TestKey(1)), 1));
}

// Another file takes the space that the tier thinks it has.
TEST(RocksdbTierTest, AFullDiskStopsWritesAndNothingElse) {
  const TestFolder folder;
  const std::string disk = folder.path() + "/mount";
  RocksdbTierOptions options = SmallTierOptions(disk + "/pieces");
  options.direct_reads = false;  // tmpfs has none
  options.free_floor_bytes = 0;
  Mount mount(disk, "64m");
  SKIP_UNLESS_MOUNTED(mount);
  const auto tier = OpenTier(options);
  for (uint32_t number = 0; number < 20; ++number) {
    ASSERT_TRUE(PutTestPiece(tier.get(), number, kBigShape).ok());
  }
  ASSERT_TRUE(tier->Flush().ok());
  const std::string filler = disk + "/filler";
  std::ofstream(filler) << std::string(57 << 20, 'x');
  absl::Status put;
  uint32_t next = 20;
  for (; put.ok() && next < 300; ++next) put = PutTestPiece(tier.get(), next, kBigShape);
  EXPECT_EQ(put.code(), absl::StatusCode::kResourceExhausted) << put;
  EXPECT_LT(next, 300u);
  for (uint32_t number = 0; number < 20; ++number) {
    EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(number)), number));
  }
  std::filesystem::remove(filler);
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  do {
    put = PutTestPiece(tier.get(), 1000, kBigShape);
    if (!put.ok()) absl::SleepFor(absl::Milliseconds(100));  // retries are seconds apart
  } while (!put.ok() && absl::Now() < deadline);
  ASSERT_TRUE(put.ok()) << put;
  EXPECT_TRUE(tier->Flush().ok());
  for (uint32_t number = 0; number < 20; ++number) {
    EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(number)), number));
  }
  EXPECT_TRUE(HoldsTestPiece(*tier->Get(TestKey(1000)), 1000));
}

}  // namespace
}  // namespace tessera::testing
