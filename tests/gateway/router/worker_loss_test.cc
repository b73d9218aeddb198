// Workers that die, fall silent or drain under a request.
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gateway/router/pool_fixture.h"

namespace tessera {
namespace {

class WorkerLossTest : public PoolFixture {
 protected:
  // Two workers; the first of them is the one that takes Request({1}).
  void StartTwo(WorkerPoolOptions options = {}) {
    first_ = Stub();
    second_ = Stub();
    StartPool({first_->address(), second_->address()}, options);
    AwaitReadyWorkers(2);
    ASSERT_TRUE(Run(Request({1})).ok());
    if (first_->calls() == 0) std::swap(first_, second_);
    calls_before_ = first_->calls();
  }

  std::unique_ptr<StubWorker> first_;
  std::unique_ptr<StubWorker> second_;
  int calls_before_ = 0;
};

TEST_F(WorkerLossTest, AWorkerThatDiesIsNoticed) {
  auto stub = Stub();
  StartPool({stub->address()}, {.poll_up = absl::Milliseconds(20)});
  AwaitReady();
  stub.reset();
  AwaitReady(false);
}

TEST_F(WorkerLossTest, AWorkerThatDiesBeforeTheFirstEventIsReplaced) {
  StartTwo();
  first_->Set({.hold_after = 0});
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  ASSERT_TRUE(first_->AwaitCalls(calls_before_ + 1));
  first_->Kill();
  EXPECT_TRUE(listener.Wait().ok());
  EXPECT_EQ(listener.Tokens(), (std::vector<uint32_t>{1, kEos}));
  EXPECT_EQ(second_->calls(), 1);
  EXPECT_EQ(pool_->Totals().retries, 1u);
  EXPECT_EQ(pool_->Totals().lost_workers, 1u);
}

TEST_F(WorkerLossTest, AWorkerThatDiesAfterAnEventEndsTheAnswer) {
  StartTwo();
  first_->Set({.hold_after = 2});
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  listener.AwaitEvents(2);
  first_->Kill();
  EXPECT_TRUE(absl::IsUnavailable(listener.Wait()));
  EXPECT_EQ(listener.Tokens(), (std::vector<uint32_t>{1}));
  EXPECT_EQ(second_->calls(), 0);
}

TEST_F(WorkerLossTest, AWorkerThatDiesWithAChunkIsReplaced) {
  first_ = Stub();
  second_ = Stub();
  StartPool({first_->address(), second_->address()});
  AwaitReadyWorkers(2);
  for (StubWorker* const stub : {first_.get(), second_.get()}) stub->Set({.hold_prefill = true});
  ChunkAnswer answer;
  auto call = pool_->PrefillChunk(ChunkOf(7), Soon(), answer.Callback());
  ASSERT_TRUE(call.ok());
  Await([&] { return first_->prefills() + second_->prefills() == 1; });
  if (first_->prefills() == 0) std::swap(first_, second_);
  second_->Set({});
  first_->Kill();
  EXPECT_TRUE(answer.Wait().ok());
  EXPECT_EQ(second_->prefills(), 1);
}

TEST_F(WorkerLossTest, RequestsGoToWhoIsLeftAndComeBack) {
  StartTwo({.poll_up = absl::Milliseconds(20)});
  const int port = first_->port();
  first_->Kill();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Run(Request({1})).ok());
  EXPECT_EQ(second_->calls(), 5);
  first_ = Stub("m", port);
  AwaitReadyWorkers(2);
  // Another process than the one that failed: it is not held against it.
  EXPECT_TRUE(Run(Request({1})).ok());
  EXPECT_EQ(first_->calls(), 1);
}

TEST_F(WorkerLossTest, ASilentWorkerIsReplacedBeforeTheFirstEvent) {
  StartTwo({.poll_up = absl::Milliseconds(20), .poll_deadline = absl::Milliseconds(100)});
  first_->Set({.hold_after = 0, .hold_model = true});
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  EXPECT_TRUE(listener.Wait().ok());
  EXPECT_EQ(listener.Tokens(), (std::vector<uint32_t>{1, kEos}));
  EXPECT_EQ(second_->calls(), 1);
  // And is asked nothing any more.
  const int calls = first_->calls();
  EXPECT_TRUE(Run(Request({1})).ok());
  EXPECT_EQ(first_->calls(), calls);
}

TEST_F(WorkerLossTest, ASilentWorkerWithoutAnotherIsWaitedFor) {
  const auto stub = Stub();
  StartPool({stub->address()},
            {.poll_up = absl::Milliseconds(20), .poll_deadline = absl::Milliseconds(50)});
  AwaitReady();
  stub->Set({.hold_after = 0, .hold_model = true});
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  AwaitReady(false);
  stub->Release();
  EXPECT_TRUE(listener.Wait().ok());
  AwaitReady();
}

TEST_F(WorkerLossTest, BegunAnswersOfASilentWorkerAreGivenUpInTheEnd) {
  StartTwo({.poll_up = absl::Milliseconds(20),
            .poll_deadline = absl::Milliseconds(50),
            .give_up = absl::Milliseconds(500)});
  first_->Set({.hold_after = 2, .hold_model = true});
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  listener.AwaitEvents(2);
  EXPECT_TRUE(absl::IsUnavailable(listener.Wait()));
  EXPECT_EQ(second_->calls(), 0);
}

TEST_F(WorkerLossTest, TheClientsCancelIsCancelledWhateverTheWorkerDoes) {
  StartTwo({.poll_up = absl::Milliseconds(20), .poll_deadline = absl::Milliseconds(50)});
  for (StubWorker* const stub : {first_.get(), second_.get()}) {
    stub->Set({.hold_after = 0, .hold_model = true});
  }
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  (*call)->Cancel();
  EXPECT_TRUE(absl::IsCancelled(listener.Wait()));
}

TEST_F(WorkerLossTest, ADrainingWorkerIsOnlyALastResort) {
  StartTwo({.poll_up = absl::Milliseconds(20)});
  first_->Set({.fail_after = 0, .failure = absl::UnavailableError("shutting down")});
  EXPECT_TRUE(Run(Request({1})).ok());
  EXPECT_EQ(first_->calls(), calls_before_ + 1);
  // It still says what it serves, and so is ready again.
  AwaitReadyWorkers(2);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Run(Request({1})).ok());
  EXPECT_EQ(first_->calls(), calls_before_ + 1);

  first_->Set({});
  second_->Set({.fail_after = 0, .failure = absl::ResourceExhaustedError("full")});
  EXPECT_TRUE(Run(Request({1})).ok());
  EXPECT_EQ(first_->calls(), calls_before_ + 2);
}

}  // namespace
}  // namespace tessera
