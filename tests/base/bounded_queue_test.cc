#include "base/bounded_queue.h"

#include <memory>
#include <thread>

#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(BoundedQueueTest, KeepsOrderAndCapacity) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.TryPush(2));
  EXPECT_FALSE(queue.TryPush(3));
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.Pop(), 2);
  EXPECT_EQ(queue.Pop(absl::ZeroDuration()), std::nullopt);
}

TEST(BoundedQueueTest, RefusedPushKeepsTheValue) {
  BoundedQueue<std::unique_ptr<int>> queue(0);
  auto value = std::make_unique<int>(7);
  EXPECT_FALSE(queue.TryPush(std::move(value)));
  ASSERT_NE(value, nullptr);
  EXPECT_FALSE(queue.Push(std::move(value), absl::Milliseconds(1)));
  ASSERT_NE(value, nullptr);
}

TEST(BoundedQueueTest, CloseDrainsThenEnds) {
  BoundedQueue<int> queue(4);
  EXPECT_TRUE(queue.TryPush(1));
  queue.Close();
  EXPECT_FALSE(queue.TryPush(2));
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.Pop(), std::nullopt);
}

TEST(BoundedQueueTest, PushWaitsForRoom) {
  BoundedQueue<int> queue(1);
  ASSERT_TRUE(queue.TryPush(1));
  std::thread consumer([&] { EXPECT_EQ(queue.Pop(), 1); });
  EXPECT_TRUE(queue.Push(2, absl::Seconds(60)));
  consumer.join();
  EXPECT_EQ(queue.Pop(), 2);
}

}  // namespace
}  // namespace tessera
