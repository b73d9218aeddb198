// What a CUDA worker's start keeps of measured products, without a card.
#include "gpu_worker/device/cuda/gemm_prepare.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "gtest/gtest.h"

namespace tessera::cuda {
namespace {

const GemmPlatform kCard = {"Some Card 80GB", 9, 0, 130101, 13000};
constexpr GemmProduct kQkv = {.n = 960, .k = 576, .bias = true};
constexpr GemmProduct kDown = {.n = 576, .k = 1536, .to_float = true, .accumulate = true};

GemmChoice SomeChoice(const GemmProduct& product, int64_t rows) {
  GemmChoice choice;
  for (size_t i = 0; i < choice.algorithm.size(); ++i) {
    choice.algorithm[i] = 0x9e3779b97f4a7c15u * (product.n + 31 * rows + i) >> (8 * i);
  }
  choice.rank = static_cast<int>(rows % 5);
  choice.candidates = 16;
  choice.us = 12.25f;
  choice.first_us = 13.5f;
  return choice;
}

bool IsSame(const GemmChoices& a, const GemmChoices& b) {
  return a.size() == b.size() &&
         std::equal(a.by_product().begin(), a.by_product().end(), b.by_product().begin(),
                    [](const auto& x, const auto& y) {
                      return x.first == y.first &&
                             std::equal(x.second.begin(), x.second.end(), y.second.begin(),
                                        [](const auto& s, const auto& t) {
                                          return s.first == t.first &&
                                                 s.second.algorithm == t.second.algorithm &&
                                                 s.second.rank == t.second.rank &&
                                                 s.second.candidates == t.second.candidates &&
                                                 s.second.us == t.second.us &&
                                                 s.second.first_us == t.second.first_us;
                                        });
                    });
}

// A start of a worker: counts what it measures.
class GemmPrepareTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(std::getenv("TEST_TMPDIR"), "/",
                           testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
  }

  PreparedGemms Start(const GemmPlatform& platform = kCard,
                      absl::Duration most_time = absl::Seconds(20)) {
    asked_.clear();
    return PrepareGemms(
        platform, needs_, folder_,
        [this](const GemmProduct& product, int64_t rows) {
          asked_.push_back(rows);
          return has_memory_ ? SomeChoice(product, rows) : GemmChoice();
        },
        most_time);
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> files;
    std::error_code none;
    for (const auto& file : std::filesystem::directory_iterator(folder_, none)) {
      files.push_back(file.path());
    }
    return files;
  }

  std::vector<GemmNeed> needs_ = {{kQkv, 300}, {kDown, 8192}};
  std::string folder_;
  bool has_memory_ = true;
  std::vector<int64_t> asked_;  // rows, in order
};

TEST(GemmChoicesTest, RowsToMeasureReachTheLargestProduct) {
  EXPECT_EQ(GemmRowsToMeasure(65), std::vector<int64_t>({128}));
  EXPECT_EQ(GemmRowsToMeasure(128), std::vector<int64_t>({128}));
  EXPECT_EQ(GemmRowsToMeasure(129), std::vector<int64_t>({128, 192}));
  EXPECT_EQ(GemmRowsToMeasure(1025),
            std::vector<int64_t>({128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280}));
  EXPECT_EQ(GemmRowsToMeasure(8192).size(), 23u);
  EXPECT_EQ(GemmRowsToMeasure(8192).back(), 8192);
  EXPECT_EQ(GemmRowsToMeasure(1 << 20), GemmRowsToMeasure(8192));
}

TEST(GemmChoicesTest, RowsBetweenTakeTheNextMeasuredOnes) {
  GemmChoices choices;
  for (const int64_t rows : {128, 192, 256}) choices.Set(kQkv, rows, SomeChoice(kQkv, rows));
  auto taken = [&](int64_t rows) { return choices.For(kQkv, rows)->algorithm; };
  EXPECT_EQ(taken(65), SomeChoice(kQkv, 128).algorithm);
  EXPECT_EQ(taken(128), SomeChoice(kQkv, 128).algorithm);
  EXPECT_EQ(taken(129), SomeChoice(kQkv, 192).algorithm);
  EXPECT_EQ(taken(100000), SomeChoice(kQkv, 256).algorithm);
  EXPECT_EQ(choices.For(kDown, 128), nullptr);
  GemmProduct plain = kQkv;
  plain.bias = false;
  EXPECT_EQ(choices.For(plain, 128), nullptr);
}

TEST_F(GemmPrepareTest, ASecondStartMeasuresNothingAndChoosesTheSame) {
  const PreparedGemms first = Start();
  EXPECT_EQ(first.measured, 4 + 23);
  EXPECT_EQ(first.left_out, 0);
  EXPECT_EQ(asked_.size(), 4u + 23u);
  ASSERT_EQ(Files().size(), 1u);
  const PreparedGemms second = Start();
  EXPECT_TRUE(asked_.empty());
  EXPECT_EQ(second.measured, 0);
  EXPECT_EQ(second.loaded, first.measured);
  EXPECT_TRUE(IsSame(first.choices, second.choices));
}

TEST_F(GemmPrepareTest, DamageAnywhereIsMeasuredAgain) {
  needs_ = {{kQkv, 200}, {kDown, 100}};
  Start();
  const std::string path = Files().at(0), good = *ReadSmallFile(path, "test");
  for (size_t at = 0; at < good.size(); ++at) {
    for (const std::string& bad :
         {good.substr(0, at), absl::StrCat(good.substr(0, at), good.substr(at + 1)),
          absl::StrCat(good.substr(0, at), std::string(1, good[at] ^ 1), good.substr(at + 1)),
          absl::StrCat(good.substr(0, at), "7", good.substr(at))}) {
      ASSERT_FALSE(DecodeGemmChoices(bad, kCard).ok()) << at << " of\n" << bad;
    }
  }
  for (const std::string& bad : {std::string(), good.substr(1), std::string(5 << 20, 'x'),
                                 std::string(good.size(), '\0'), good + good}) {
    ASSERT_TRUE(WriteSmallFile(path, bad).ok());
    EXPECT_EQ(Start().measured, 4);
    EXPECT_EQ(*ReadSmallFile(path, "test"), good);  // and mended
  }
}

TEST_F(GemmPrepareTest, OtherCardsKeepFilesOfTheirOwn) {
  Start();
  GemmPlatform other = kCard;
  other.card = "Another Card";
  EXPECT_EQ(Start(other).loaded, 0);
  EXPECT_EQ(Files().size(), 2u);
  EXPECT_GT(Start().loaded, 0);
  EXPECT_GT(Start(other).loaded, 0);
}

TEST_F(GemmPrepareTest, ANewDriverOrLibraryMeasuresAgain) {
  Start();
  std::vector<GemmPlatform> others(4, kCard);
  others[0].compute_minor = 1;
  others[1].compute_major = 10;
  others[2].library = 130200;
  others[3].driver = 13010;
  for (const GemmPlatform& other : others) {
    EXPECT_GT(Start(other).measured, 0);
    EXPECT_EQ(Start(other).measured, 0);
    EXPECT_EQ(Files().size(), 1u);  // in the old one's place
  }
  const absl::Status status = DecodeGemmChoices(EncodeGemmChoices(kCard, {}), others[2]).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

TEST_F(GemmPrepareTest, OtherProductsKeepFilesOfTheirOwn) {
  Start();
  needs_[0].product.n += 64;
  EXPECT_GT(Start().measured, 0);
  EXPECT_EQ(Files().size(), 2u);
}

TEST_F(GemmPrepareTest, AFolderThatCannotBeWrittenIsNoFailure) {
  std::ofstream(folder_) << "a file where the folder should be";
  EXPECT_EQ(Start().measured, 27);
  EXPECT_EQ(Start().measured, 27);
  folder_ = "/proc/tessera";
  EXPECT_EQ(Start().measured, 27);
  folder_.clear();  // none is wanted
  EXPECT_EQ(Start().measured, 27);
}

TEST_F(GemmPrepareTest, WhenTheTimeIsUpTheRestIsLeftOut) {
  const PreparedGemms prepared = Start(kCard, absl::ZeroDuration());
  EXPECT_TRUE(asked_.empty());
  EXPECT_EQ(prepared.left_out, 27);
  EXPECT_TRUE(Files().empty());
  Start();
  // What is left out last are rows between powers of two.
  const auto first_between = std::find(asked_.begin(), asked_.end(), 192);
  EXPECT_TRUE(std::all_of(asked_.begin(), first_between,
                          [](int64_t rows) { return (rows & (rows - 1)) == 0; }));
  EXPECT_EQ(first_between - asked_.begin(), 2 + 7);
}

TEST_F(GemmPrepareTest, WithoutMemoryNothingIsKept) {
  has_memory_ = false;
  const PreparedGemms prepared = Start();
  EXPECT_EQ(prepared.measured, 0);
  EXPECT_EQ(prepared.left_out, 27);
  EXPECT_TRUE(Files().empty());
  has_memory_ = true;
  EXPECT_EQ(Start().measured, 27);
}

}  // namespace
}  // namespace tessera::cuda
