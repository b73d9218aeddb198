#include "base/auto_reset_event.h"

#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(AutoResetEventTest, OneAwaitTakesAllSignals) {
  AutoResetEvent event;
  EXPECT_FALSE(event.Await(absl::InfinitePast()));
  event.Signal();
  event.Signal();
  EXPECT_TRUE(event.Await(absl::InfinitePast()));
  EXPECT_FALSE(event.Await(absl::Now() + absl::Milliseconds(1)));
}

TEST(AutoResetEventTest, WhoLooksAfterEveryAwaitMissesNothing) {
  AutoResetEvent event;
  std::atomic<int> done = 0;
  std::thread worker([&] {
    for (int i = 0; i < 1000; ++i) {
      ++done;
      event.Signal();
    }
  });
  while (done < 1000) ASSERT_TRUE(event.Await(absl::InfiniteFuture()));
  worker.join();
}

}  // namespace
}  // namespace tessera
