#include "cache_server/store/key_events.h"

#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {
namespace {

TEST(KeyEventsTest, EveryWatcherHearsInOrder) {
  KeyEvents events;
  KeyWatcher first(10, [] {});
  KeyWatcher second(10, [] {});
  events.Added(TestKey(0), "ram");  // nobody listens yet
  ASSERT_TRUE(events.Add(&first, 2) && events.Add(&second, 2));
  events.Added(TestKey(1), "ram");
  events.ListenerFor("disk")(TestKey(2), EvictionReason::kRoom);
  for (KeyWatcher* watcher : {&first, &second}) {
    KeyEvent event;
    ASSERT_TRUE(watcher->Pop(&event));
    EXPECT_TRUE(event.added && event.key == TestKey(1) && event.tier == "ram");
    ASSERT_TRUE(watcher->Pop(&event));
    EXPECT_TRUE(!event.added && event.key == TestKey(2) && event.tier == "disk");
    EXPECT_EQ(event.reason, EvictionReason::kRoom);
    EXPECT_FALSE(watcher->Pop(&event));
    events.Remove(watcher);
  }
  EXPECT_EQ(events.watchers(), 0u);
}

TEST(KeyEventsTest, WakesOnceForAnEmptyQueue) {
  KeyEvents events;
  int woken = 0;
  KeyWatcher watcher(10, [&woken] { ++woken; });
  ASSERT_TRUE(events.Add(&watcher, 1));
  events.Added(TestKey(1), "ram");
  events.Added(TestKey(2), "ram");
  EXPECT_EQ(woken, 1);
  KeyEvent event;
  while (watcher.Pop(&event)) {
  }
  events.Added(TestKey(3), "ram");
  EXPECT_EQ(woken, 2);
  events.Remove(&watcher);
}

TEST(KeyEventsTest, ASlowWatcherIsToldHowManyItMissed) {
  KeyEvents events;
  KeyWatcher watcher(2, [] {});
  ASSERT_TRUE(events.Add(&watcher, 1));
  for (uint32_t number = 0; number < 5; ++number) events.Added(TestKey(number), "ram");
  KeyEvent event;
  ASSERT_TRUE(watcher.Pop(&event));
  EXPECT_EQ(event.missed, 0u);
  ASSERT_TRUE(watcher.Pop(&event));
  events.Added(TestKey(9), "ram");
  ASSERT_TRUE(watcher.Pop(&event));
  EXPECT_EQ(event.key, TestKey(9));
  EXPECT_EQ(event.missed, 3u);
  events.Remove(&watcher);
}

TEST(KeyEventsTest, WatchersAreBounded) {
  KeyEvents events;
  KeyWatcher first(1, [] {});
  KeyWatcher second(1, [] {});
  EXPECT_TRUE(events.Add(&first, 1));
  EXPECT_FALSE(events.Add(&second, 1));
  events.Remove(&first);
  EXPECT_TRUE(events.Add(&second, 1));
  events.Remove(&second);
}

}  // namespace
}  // namespace tessera::testing
