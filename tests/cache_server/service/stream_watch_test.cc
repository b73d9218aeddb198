#include "cache_server/service/stream_watch.h"

#include <atomic>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

class CountingStream : public WatchedStream {
 public:
  void CheckDeadline(absl::Time) override {
    if (++checks_ == 2) checked_.Notify();
  }
  std::atomic<int> checks_ = 0;
  absl::Notification checked_;
};

TEST(StreamWatchTest, ChecksUntilTheStreamLeaves) {
  StreamWatch watch(10, absl::Milliseconds(1));
  CountingStream stream;
  ASSERT_TRUE(watch.TryEnter(&stream));
  stream.checked_.WaitForNotification();
  watch.Leave(&stream);
  const int checks = stream.checks_;
  CountingStream other;
  ASSERT_TRUE(watch.TryEnter(&other));
  other.checked_.WaitForNotification();
  watch.Leave(&other);
  EXPECT_EQ(stream.checks_, checks);
}

TEST(StreamWatchTest, LimitsStreams) {
  StreamWatch watch(2);
  CountingStream streams[3];
  EXPECT_TRUE(watch.TryEnter(&streams[0]));
  EXPECT_TRUE(watch.TryEnter(&streams[1]));
  EXPECT_FALSE(watch.TryEnter(&streams[2]));
  EXPECT_EQ(watch.size(), 2u);
  watch.Leave(&streams[0]);
  EXPECT_TRUE(watch.TryEnter(&streams[2]));
  watch.Leave(&streams[1]);
  watch.Leave(&streams[2]);
}

}  // namespace
}  // namespace tessera
