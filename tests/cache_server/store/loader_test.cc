#include "cache_server/store/loader.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/test_ram_tier.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 1, .slice_bytes = 64};

// A loader of test pieces from a tier, whose loads wait for a word.
class LoaderTest : public ::testing::Test {
 protected:
  LoaderTest() {
    for (uint32_t number = 0; number < 8; ++number) {
      EXPECT_TRUE(PutTestPiece(tier_.get(), number, kShape).ok());
    }
  }

  std::unique_ptr<Loader> Make(LoaderOptions options) {
    return std::make_unique<Loader>(options,
                                    [this](const ChunkKey& key) -> absl::StatusOr<FoundPiece> {
                                      if (!started_.HasBeenNotified()) started_.Notify();
                                      go_.WaitForNotification();
                                      auto handle = tier_->Get(key);
                                      if (!handle.ok()) return handle.status();
                                      return FoundPiece{*std::move(handle), "slow"};
                                    });
  }

  // A callback that appends what became of `number`.
  LoadCallback Note(uint32_t number) {
    return [this, number](absl::StatusOr<FoundPiece> found) {
      absl::MutexLock lock(&mutex_);
      const bool right = found.ok() && HoldsTestPiece(found->handle, number);
      ends_.push_back(right ? "right" : std::string(absl::StatusCodeToString(found.status().code())));
    };
  }
  std::vector<std::string> Ends(size_t count) {
    absl::MutexLock lock(&mutex_);
    auto all = [this, count]()
                   ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ends_.size() >= count; };
    mutex_.Await(absl::Condition(&all));
    return ends_;
  }

  const std::unique_ptr<Tier> tier_ = MakeTestRamTier(1 << 20);
  absl::Notification started_;
  absl::Notification go_;
  absl::Mutex mutex_;
  std::vector<std::string> ends_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(LoaderTest, OneLoadServesAll) {
  const auto loader = Make({.threads = 1, .queue = 10});
  for (int i = 0; i < 5; ++i) loader->Load(TestKey(1), Note(1));
  EXPECT_EQ(loader->counters().shared_loads, 4u);
  go_.Notify();
  EXPECT_EQ(Ends(5), std::vector<std::string>(5, "right"));
  EXPECT_EQ(loader->counters().loads, 1u);
}

TEST_F(LoaderTest, AFailureIsNotRemembered) {
  const auto loader = Make({.threads = 1, .queue = 10});
  go_.Notify();
  loader->Load(TestKey(99), Note(99));
  EXPECT_EQ(Ends(1), std::vector<std::string>{"NOT_FOUND"});
  ASSERT_TRUE(PutTestPiece(tier_.get(), 99, kShape).ok());
  loader->Load(TestKey(99), Note(99));
  EXPECT_EQ(Ends(2)[1], "right");
  EXPECT_EQ(loader->counters().failed_loads, 1u);
}

TEST_F(LoaderTest, AFullQueueRefuses) {
  const auto loader = Make({.threads = 1, .queue = 2});
  loader->Load(TestKey(0), Note(0));
  started_.WaitForNotification();
  for (uint32_t number = 1; number <= 3; ++number) loader->Load(TestKey(number), Note(number));
  EXPECT_EQ(Ends(1), std::vector<std::string>{"RESOURCE_EXHAUSTED"});
  EXPECT_EQ(loader->counters().refused_loads, 1u);
  EXPECT_EQ(loader->counters().waiting, 2u);
  go_.Notify();
  EXPECT_EQ(Ends(4).size(), 4u);
}

TEST_F(LoaderTest, ItsEndTellsThoseWhoWait) {
  auto loader = Make({.threads = 1, .queue = 10});
  loader->Load(TestKey(0), Note(0));
  started_.WaitForNotification();
  loader->Load(TestKey(1), Note(1));
  std::thread ender([&loader] { loader.reset(); });
  // The end waits for the load that runs; the word for that comes from here.
  go_.Notify();
  ender.join();
  const std::vector<std::string> ends = Ends(2);
  EXPECT_EQ(ends[0], "right");
  EXPECT_TRUE(ends[1] == "CANCELLED" || ends[1] == "right") << ends[1];
}

}  // namespace
}  // namespace tessera::testing
