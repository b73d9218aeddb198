// Folders and tiers on a disk, for tests.
#ifndef TESSERA_TESTS_CACHE_SERVER_TIER_ROCKSDB_FOLDERS_H_
#define TESSERA_TESTS_CACHE_SERVER_TIER_ROCKSDB_FOLDERS_H_

#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache_server/tier/rocksdb_tier.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {

// A new folder, removed at the end.
class TestFolder {
 public:
  TestFolder() {
    std::string name = ::testing::TempDir() + "/rocksdb_tier.XXXXXX";
    EXPECT_NE(mkdtemp(name.data()), nullptr) << name;
    path_ = name;
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  // Of the tier, inside.
  std::string tier() const { return path_ + "/pieces"; }

 private:
  std::string path_;
};

// A tier that is large against the tests' pieces, with buffers that are not.
inline RocksdbTierOptions SmallTierOptions(const std::string& folder) {
  RocksdbTierOptions options;
  options.folder = folder;
  options.capacity_bytes = uint64_t{1} << 30;
  options.free_floor_bytes = 1 << 20;
  options.write_buffer_bytes = 1 << 20;
  return options;
}

inline std::unique_ptr<Tier> OpenTier(const RocksdbTierOptions& options) {
  absl::StatusOr<std::unique_ptr<Tier>> tier = MakeRocksdbTier(options);
  EXPECT_TRUE(tier.ok()) << tier.status();
  return tier.ok() ? *std::move(tier) : nullptr;
}

// One figure of a tier's medium; -1 if it has none of that name.
inline double MediumFigure(const Tier& tier, const std::string& name) {
  for (const auto& [known, value] : tier.Stats().medium) {
    if (known == name) return value;
  }
  return -1;
}

// The files of a folder whose names end so, by name.
inline std::vector<std::string> FilesEndingIn(const std::string& folder, const std::string& end) {
  std::vector<std::string> files;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    const std::string name = file.path();
    if (name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0) {
      files.push_back(name);
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TIER_ROCKSDB_FOLDERS_H_
