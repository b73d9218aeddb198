// That absl_tsan.cc tells ThreadSanitizer the truth: sound programs are clean, and races are
// reported.
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace {

constexpr int kRounds = 2000;

void RunTogether(const std::vector<std::function<void()>>& bodies) {
  std::vector<std::thread> threads;
  for (const auto& body : bodies) threads.emplace_back(body);
  for (std::thread& thread : threads) thread.join();
}

// Sound programs. A report of any of them fails the whole test when it ends.

TEST(SoundTest, Lock) {
  absl::Mutex mutex;
  int count = 0;
  const auto add = [&] {
    for (int i = 0; i < kRounds; ++i) {
      absl::MutexLock lock(&mutex);
      ++count;
    }
  };
  RunTogether({add, add, add});
  EXPECT_EQ(count, 3 * kRounds);
}

TEST(SoundTest, TryLock) {
  absl::Mutex mutex;
  int count = 0;
  const auto add = [&] {
    for (int i = 0; i < kRounds;) {
      if (!mutex.TryLock()) continue;
      ++count;
      ++i;
      mutex.Unlock();
    }
  };
  RunTogether({add, add});
  EXPECT_EQ(count, 2 * kRounds);
}

// Each waits for a state that the other makes, so that conditions are evaluated by the thread that
// waits, and by the one that unlocks.
TEST(SoundTest, Await) {
  absl::Mutex mutex;
  std::vector<int> values;
  const auto turn = [&](size_t parity) {
    for (int i = 0; i < kRounds; ++i) {
      absl::MutexLock lock(&mutex);
      const auto ours = [&] { return values.size() % 2 == parity; };
      if (i % 3 == 0) {
        mutex.Await(absl::Condition(&ours));
      } else {
        while (!mutex.AwaitWithTimeout(absl::Condition(&ours), absl::Milliseconds(i % 3))) {
        }
      }
      values.push_back(i);
    }
  };
  RunTogether({[&] { turn(0); }, [&] { turn(1); }});
  EXPECT_EQ(values.size(), 2u * kRounds);
}

TEST(SoundTest, LockWhen) {
  absl::Mutex mutex;
  int count = 0;
  const auto turn = [&](int parity) {
    for (int i = 0; i < kRounds; ++i) {
      const auto ours = [&] { return count % 2 == parity; };
      if (i % 2 == 0) {
        mutex.LockWhen(absl::Condition(&ours));
      } else {
        while (!mutex.LockWhenWithTimeout(absl::Condition(&ours), absl::Milliseconds(1))) {
          mutex.Unlock();
        }
      }
      ++count;
      mutex.Unlock();
    }
  };
  RunTogether({[&] { turn(0); }, [&] { turn(1); }});
  EXPECT_EQ(count, 2 * kRounds);
}

TEST(SoundTest, ReadersAndWriter) {
  absl::Mutex mutex;
  int count = 0;
  const auto write = [&] {
    for (int i = 0; i < kRounds; ++i) {
      absl::WriterMutexLock lock(&mutex);
      ++count;
    }
  };
  const auto read = [&] {
    const auto done = [&] { return count == kRounds; };
    int last = 0;
    while (last < kRounds / 2) {
      absl::ReaderMutexLock lock(&mutex);
      last = count;
    }
    absl::ReaderMutexLock lock(&mutex, absl::Condition(&done));
    EXPECT_EQ(count, kRounds);
  };
  RunTogether({write, read, read});
}

TEST(SoundTest, CondVar) {
  absl::Mutex mutex;
  absl::CondVar changed;
  int count = 0;
  const auto turn = [&](int parity) {
    for (int i = 0; i < kRounds; ++i) {
      absl::MutexLock lock(&mutex);
      while (count % 2 != parity) {
        if (i % 2 == 0) {
          changed.Wait(&mutex);
        } else {
          changed.WaitWithTimeout(&mutex, absl::Milliseconds(1));
        }
      }
      ++count;
      changed.SignalAll();
    }
  };
  RunTogether({[&] { turn(0); }, [&] { turn(1); }});
  EXPECT_EQ(count, 2 * kRounds);
}

TEST(SoundTest, Notification) {
  for (int i = 0; i < 100; ++i) {
    absl::Notification ready;
    int value = 0;
    const auto wait = [&] {
      ready.WaitForNotification();
      EXPECT_EQ(value, 1);
    };
    const auto poll = [&] {
      while (!ready.HasBeenNotified()) {
        std::this_thread::yield();
      }
      EXPECT_EQ(value, 1);
    };
    const auto wait_a_little = [&] {
      while (!ready.WaitForNotificationWithTimeout(absl::Microseconds(10))) {
      }
      EXPECT_EQ(value, 1);
    };
    const auto notify = [&] {
      value = 1;
      ready.Notify();
    };
    RunTogether({wait, poll, wait_a_little, notify});
  }
}

TEST(SoundTest, BlockingCounter) {
  for (int i = 0; i < 100; ++i) {
    absl::BlockingCounter counter(2);
    int values[2] = {};
    const auto work = [&](int which) {
      values[which] = 1;
      counter.DecrementCount();
    };
    const auto wait = [&] {
      counter.Wait();
      EXPECT_EQ(values[0] + values[1], 2);
    };
    RunTogether({[&] { work(0); }, [&] { work(1); }, wait});
  }
}

TEST(SoundTest, MessageOfAStatus) {
  for (int i = 0; i < kRounds; ++i) {
    auto status = std::make_unique<absl::Status>(absl::InternalError("shared by two threads"));
    const auto use = [copy = *status] { EXPECT_EQ(copy.message().size(), 21u); };
    std::thread other(use);
    status.reset();
    other.join();
  }
}

// Races, each in a process of its own that ends with ThreadSanitizer's exit code.

template <typename Body>
void ExpectRace(Body body) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        body();
        std::exit(0);
      },
      ::testing::ExitedWithCode(66), "data race");
}

TEST(RaceDeathTest, NoLock) {
  ExpectRace([] {
    int count = 0;
    const auto add = [&] { ++count; };
    RunTogether({add, add});
  });
}

TEST(RaceDeathTest, OneLocksTheOtherDoesNot) {
  ExpectRace([] {
    absl::Mutex mutex;
    int count = 0;
    const auto add_locked = [&] {
      absl::MutexLock lock(&mutex);
      ++count;
    };
    const auto add = [&] { ++count; };
    RunTogether({add_locked, add});
  });
}

TEST(RaceDeathTest, TwoMutexes) {
  ExpectRace([] {
    absl::Mutex mutexes[2];
    int count = 0;
    const auto add = [&](int which) {
      for (int i = 0; i < kRounds; ++i) {
        absl::MutexLock lock(&mutexes[which]);
        ++count;
      }
    };
    RunTogether({[&] { add(0); }, [&] { add(1); }});
  });
}

TEST(RaceDeathTest, WritesUnderAReaderLock) {
  ExpectRace([] {
    absl::Mutex mutex;
    int count = 0;
    const auto add = [&] {
      for (int i = 0; i < kRounds; ++i) {
        absl::ReaderMutexLock lock(&mutex);
        ++count;
      }
    };
    RunTogether({add, add});
  });
}

// What a condition reads is checked as well.
TEST(RaceDeathTest, AConditionReadsWhatNobodyGuards) {
  ExpectRace([] {
    absl::Mutex mutex;
    volatile bool ready = false;
    const auto wait = [&] {
      absl::MutexLock lock(&mutex);
      const auto is_ready = [&] { return static_cast<bool>(ready); };
      while (!mutex.AwaitWithTimeout(absl::Condition(&is_ready), absl::Milliseconds(1))) {
      }
    };
    const auto set = [&] {
      ready = true;
      absl::MutexLock lock(&mutex);
    };
    RunTogether({wait, set});
  });
}

// After a wait that has timed out the lock is held, and nothing more is known.
TEST(RaceDeathTest, ATimedOutWaitForANotification) {
  ExpectRace([] {
    absl::Notification ready;
    int value = 0;
    const auto wait = [&] {
      EXPECT_FALSE(ready.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
      ++value;
    };
    const auto write = [&] { ++value; };
    RunTogether({wait, write});
  });
}

}  // namespace
