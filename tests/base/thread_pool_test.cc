#include "base/thread_pool.h"

#include <atomic>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(ThreadPoolTest, RunsSideBySide) {
  absl::Notification first, second;
  ThreadPool pool(2, 10);
  // Each waits for the other: one thread alone would never end.
  ASSERT_TRUE(pool.TryRun([&] {
    first.Notify();
    second.WaitForNotification();
  }));
  ASSERT_TRUE(pool.TryRun([&] {
    first.WaitForNotification();
    second.Notify();
  }));
}

TEST(ThreadPoolTest, AFullQueueTakesNothing) {
  absl::Notification started, go;
  std::atomic<int> ran = 0;
  {
    ThreadPool pool(1, 1);
    ASSERT_TRUE(pool.TryRun([&] {
      started.Notify();
      go.WaitForNotification();
      ++ran;
    }));
    started.WaitForNotification();
    EXPECT_TRUE(pool.TryRun([&] { ++ran; }));
    EXPECT_FALSE(pool.TryRun([&] { ran += 100; }));
    go.Notify();
  }
  EXPECT_EQ(ran, 2) << "what was queued is run before the end";
}

}  // namespace
}  // namespace tessera
