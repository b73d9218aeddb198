#include "cache_server/client/slice_verifiers.h"

#include <atomic>
#include <latch>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

// So many turns of work.
class Work final : public VerifiedStream {
 public:
  explicit Work(int turns) : left_(turns) {}
  bool VerifySome() override {
    if (left_.fetch_sub(1) <= 0) {
      left_.fetch_add(1);
      return false;
    }
    done_.fetch_add(1);
    return true;
  }
  void Add(int turns) { left_.fetch_add(turns); }
  void AwaitDone(int turns) const {
    while (done_ < turns) absl::SleepFor(absl::Milliseconds(1));
  }
  int done() const { return done_; }

 private:
  std::atomic<int> left_, done_ = 0;
};

TEST(SliceVerifiersTest, AllIsDoneForAll) {
  SliceVerifiers verifiers(3);
  Work one(1000), two(1000);
  verifiers.Wake(&one);
  verifiers.Wake(&two);
  one.AwaitDone(1000);
  two.AwaitDone(1000);
  verifiers.Remove(&one);
  verifiers.Remove(&two);
}

TEST(SliceVerifiersTest, AWakeIsNeverLost) {
  SliceVerifiers verifiers(3);
  Work work(0);
  for (int turn = 1; turn <= 2000; ++turn) {
    work.Add(1);
    verifiers.Wake(&work);
    if (turn % 3 == 0) work.AwaitDone(turn);
  }
  work.AwaitDone(2000);
  verifiers.Remove(&work);
}

TEST(SliceVerifiersTest, SeveralThreadsWorkForOne) {
  class Meeting final : public VerifiedStream {
   public:
    bool VerifySome() override {
      if (turns_.fetch_add(1) >= 2) return false;
      both_.arrive_and_wait();
      if (met_.fetch_add(1) == 1) over.Notify();
      return true;
    }
    absl::Notification over;

   private:
    std::atomic<int> turns_ = 0, met_ = 0;
    std::latch both_{2};
  };
  SliceVerifiers verifiers(2);
  Meeting meeting;
  verifiers.Wake(&meeting);
  meeting.over.WaitForNotification();
  verifiers.Remove(&meeting);
}

TEST(SliceVerifiersTest, RemovingWaitsForWhoIsAtIt) {
  class Slow final : public VerifiedStream {
   public:
    bool VerifySome() override {
      if (!began.HasBeenNotified()) began.Notify();
      absl::SleepFor(absl::Milliseconds(50));
      over = true;
      return true;  // for ever
    }
    absl::Notification began;
    std::atomic<bool> over = false;
  };
  SliceVerifiers verifiers(1);
  Slow slow;
  verifiers.Wake(&slow);
  slow.began.WaitForNotification();
  verifiers.Remove(&slow);
  EXPECT_TRUE(slow.over);
}

TEST(SliceVerifiersTest, WhoWasNeverWokenMayBeRemoved) {
  SliceVerifiers verifiers;
  Work work(1);
  verifiers.Remove(&work);
  EXPECT_EQ(work.done(), 0);
}

}  // namespace
}  // namespace tessera
