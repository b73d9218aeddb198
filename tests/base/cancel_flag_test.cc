#include "base/cancel_flag.h"

#include <optional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(CancelFlagTest, HooksAreCalledOnce) {
  CancelFlag flag;
  int calls = 0, gone_calls = 0;
  const CancelFlag::Hook hook(flag, [&] { ++calls; });
  std::optional<CancelFlag::Hook> gone;
  gone.emplace(flag, [&] { ++gone_calls; });
  gone.reset();
  EXPECT_FALSE(flag.IsSet());
  flag.Set();
  flag.Set();
  EXPECT_TRUE(flag.IsSet() && flag.value());
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(gone_calls, 0);
}

TEST(CancelFlagTest, ALateHookIsCalledAtOnce) {
  CancelFlag flag;
  flag.Set();
  bool called = false;
  const CancelFlag::Hook hook(flag, [&] { called = true; });
  EXPECT_TRUE(called);
}

TEST(CancelFlagTest, WakesAWaiter) {
  CancelFlag flag;
  absl::Notification woken;
  const CancelFlag::Hook hook(flag, [&] { woken.Notify(); });
  std::thread setter([&] { flag.Set(); });
  woken.WaitForNotification();
  setter.join();
}

}  // namespace
}  // namespace tessera
