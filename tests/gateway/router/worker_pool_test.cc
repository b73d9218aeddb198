#include "gateway/router/worker_pool.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/gateway/stub_worker.h"

namespace tessera {
namespace {

namespace v1 = worker::v1;

constexpr uint32_t kEos = 9;

// Collects a call's events; Wait returns its status.
class Listener final : public GenerateListener {
 public:
  void OnEvent(const v1::GenerateResponse& event) override {
    absl::MutexLock lock(&mutex_);
    events_.push_back(event);
  }

  void OnDone(absl::Status status) override {
    status_ = std::move(status);
    done_.Notify();
  }

  absl::Status Wait() {
    EXPECT_TRUE(done_.WaitForNotificationWithTimeout(absl::Seconds(30)));
    return status_;
  }

  void AwaitEvents(size_t count) {
    absl::MutexLock lock(&mutex_);
    auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return events_.size() >= count; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(30)));
  }

  std::vector<uint32_t> Tokens() {
    absl::MutexLock lock(&mutex_);
    std::vector<uint32_t> ids;
    for (const auto& event : events_) {
      if (event.has_token()) ids.push_back(event.token().id());
    }
    return ids;
  }

 private:
  absl::Mutex mutex_;
  std::vector<v1::GenerateResponse> events_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_;
  absl::Notification done_;
};

v1::GenerateRequest Request(std::vector<uint32_t> ids, uint32_t max_tokens = 100) {
  v1::GenerateRequest request;
  request.add_segments()->mutable_token_ids()->Add(ids.begin(), ids.end());
  request.set_max_tokens(max_tokens);
  return request;
}

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

std::unique_ptr<StubWorker> Stub(const std::string& model = "m", int port = 0) {
  return StubWorker::Start(model, 1000, 100, kEos, port);
}

class WorkerPoolTest : public testing::Test {
 protected:
  void StartPool(const std::vector<std::string>& addresses, WorkerPoolOptions options = {}) {
    options.poll_down = absl::Milliseconds(20);
    std::vector<std::unique_ptr<WorkerClient>> clients;
    for (const std::string& address : addresses) clients.push_back(ConnectWorker(address));
    pool_ = std::make_unique<WorkerPool>(std::move(clients), options);
    pool_->Start();
  }

  // Polling has no event to wait for from outside; so ask, for 30 seconds at most.
  void AwaitReady(bool ready = true) {
    const absl::Time deadline = Soon();
    while (pool_->ready() != ready && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
    ASSERT_EQ(pool_->ready(), ready);
  }

  std::unique_ptr<WorkerPool> pool_;
};

TEST_F(WorkerPoolTest, StreamsEventsInOrder) {
  const auto stub = Stub();
  StartPool({stub->address()});
  AwaitReady();
  EXPECT_EQ(pool_->Model()->name(), "m");
  Listener listener;
  auto call = pool_->Generate(Request({1, 2, 3}), Soon(), &listener);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_TRUE(listener.Wait().ok());
  EXPECT_EQ(listener.Tokens(), (std::vector<uint32_t>{1, 2, 3, kEos}));
}

TEST_F(WorkerPoolTest, IsNotReadyWithoutAWorkerAndFindsItLater) {
  int port = 0;
  {
    const auto stub = Stub();
    port = stub->port();
  }
  StartPool({absl::StrCat("127.0.0.1:", port)});
  Listener listener;
  EXPECT_TRUE(absl::IsUnavailable(pool_->Generate(Request({1}), Soon(), &listener).status()));
  const auto stub = Stub("late", port);
  AwaitReady();
  EXPECT_EQ(pool_->Model()->name(), "late");
}

TEST_F(WorkerPoolTest, CancelReachesTheWorker) {
  const auto stub = Stub();
  stub->Set({.hold_after = 2});
  StartPool({stub->address()});
  AwaitReady();
  Listener listener;
  auto call = pool_->Generate(Request({1, 2, 3}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  listener.AwaitEvents(2);
  (*call)->Cancel();
  EXPECT_TRUE(absl::IsCancelled(listener.Wait()));
  EXPECT_TRUE(stub->AwaitCancelled(1));
}

TEST_F(WorkerPoolTest, DeadlineEndsACall) {
  const auto stub = Stub();
  stub->Set({.hold_after = 1});
  StartPool({stub->address()});
  AwaitReady();
  Listener listener;
  auto call = pool_->Generate(Request({1}), absl::Now() + absl::Milliseconds(100), &listener);
  ASSERT_TRUE(call.ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(listener.Wait()));
}

TEST_F(WorkerPoolTest, AnotherWorkerIsTriedBeforeTheFirstEvent) {
  const auto first = Stub();
  const auto second = Stub();
  first->Set({.fail_after = 0, .failure = absl::ResourceExhaustedError("full")});
  second->Set({.fail_after = 0, .failure = absl::ResourceExhaustedError("full")});
  StartPool({first->address(), second->address()});
  AwaitReady();
  Listener both_full;
  auto call = pool_->Generate(Request({1}), Soon(), &both_full);
  ASSERT_TRUE(call.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(both_full.Wait()));

  // Whichever is asked first, the answer comes from the one that can.
  second->Set({});
  for (uint32_t i = 0; i < 10; ++i) {
    Listener listener;
    auto retried = pool_->Generate(Request({i, 2}), Soon(), &listener);
    ASSERT_TRUE(retried.ok());
    EXPECT_TRUE(listener.Wait().ok());
    EXPECT_EQ(listener.Tokens(), (std::vector<uint32_t>{i, 2, kEos}));
  }
}

TEST_F(WorkerPoolTest, NoOtherWorkerIsTriedAfterAnEvent) {
  const auto first = Stub();
  const auto second = Stub();
  for (StubWorker* const stub : {first.get(), second.get()}) {
    stub->Set({.fail_after = 2, .failure = absl::UnavailableError("stopping")});
  }
  StartPool({first->address(), second->address()});
  AwaitReady();
  Listener listener;
  auto call = pool_->Generate(Request({1, 2, 3}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  EXPECT_TRUE(absl::IsUnavailable(listener.Wait()));
  EXPECT_EQ(first->calls() + second->calls(), 1);
}

TEST_F(WorkerPoolTest, InvalidRequestsAreNotTriedElsewhere) {
  const auto first = Stub();
  const auto second = Stub();
  for (StubWorker* const stub : {first.get(), second.get()}) {
    stub->Set({.fail_after = 0, .failure = absl::InvalidArgumentError("segments is empty")});
  }
  StartPool({first->address(), second->address()});
  AwaitReady();
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  EXPECT_EQ(listener.Wait(), absl::InvalidArgumentError("segments is empty"));
  EXPECT_EQ(first->calls() + second->calls(), 1);
}

TEST_F(WorkerPoolTest, InFlightRequestsAreBounded) {
  const auto stub = Stub();
  stub->Set({.hold_after = 1});
  StartPool({stub->address()}, {.max_in_flight = 1});
  AwaitReady();
  Listener running;
  auto call = pool_->Generate(Request({1}), Soon(), &running);
  ASSERT_TRUE(call.ok());
  Listener refused;
  EXPECT_TRUE(absl::IsResourceExhausted(pool_->Generate(Request({1}), Soon(), &refused).status()));
  stub->Release();
  EXPECT_TRUE(running.Wait().ok());
}

TEST_F(WorkerPoolTest, AWorkerThatDiesIsNoticed) {
  auto stub = Stub();
  StartPool({stub->address()}, {.poll_up = absl::Milliseconds(20)});
  AwaitReady();
  stub.reset();
  AwaitReady(false);
}

}  // namespace
}  // namespace tessera
