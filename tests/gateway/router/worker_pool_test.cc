#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/gateway/router/pool_fixture.h"

namespace tessera {
namespace {

using WorkerPoolTest = PoolFixture;

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

TEST_F(WorkerPoolTest, StatesSayWhatEachWorkerServes) {
  const auto first = Stub();
  const auto other = Stub("other");
  StartPool({first->address(), other->address(), "127.0.0.1:1"});
  AwaitReadyWorkers(2);
  first->Set({.hold_after = 1});
  Listener listener;
  auto call = pool_->Generate(Request({1}), Soon(), &listener);
  ASSERT_TRUE(call.ok());
  const std::vector<WorkerState> states = pool_->States();
  ASSERT_EQ(states.size(), 3u);
  EXPECT_EQ(states[0].address, first->address());
  EXPECT_EQ(states[0].model, "m");
  EXPECT_EQ(states[0].device, "stub");
  EXPECT_TRUE(states[0].blend_enabled);
  EXPECT_EQ(states[0].in_flight, 1u);
  EXPECT_EQ(states[1].model, "other");
  EXPECT_EQ(states[1].in_flight, 0u);
  EXPECT_FALSE(states[2].ready);
  EXPECT_EQ(states[2].model, "");
  first->Release();
  EXPECT_TRUE(listener.Wait().ok());
}

TEST_F(WorkerPoolTest, PrefillChunkSaysWhatIsStored) {
  const auto stub = Stub();
  StartPool({stub->address()});
  AwaitReady();
  for (const uint32_t cached : {0u, 100u}) {
    ChunkAnswer answer;
    auto call = pool_->PrefillChunk(ChunkOf(7), Soon(), answer.Callback());
    ASSERT_TRUE(call.ok()) << call.status();
    const auto response = answer.Wait();
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->chunk_key().size(), 32u);
    EXPECT_EQ(response->tokens(), 100u);
    EXPECT_EQ(response->bytes(), 100 * kStubTokenBytes);
    EXPECT_EQ(response->cached_tokens(), cached);
  }
}

TEST_F(WorkerPoolTest, PrefillChunkNeedsAWorker) {
  StartPool({"127.0.0.1:1"});
  ChunkAnswer answer;
  const auto call = pool_->PrefillChunk(ChunkOf(7), Soon(), answer.Callback());
  EXPECT_TRUE(absl::IsUnavailable(call.status()));
}

TEST_F(WorkerPoolTest, PrefillChunkIsCancelled) {
  const auto stub = Stub();
  stub->Set({.hold_prefill = true});
  StartPool({stub->address()});
  AwaitReady();
  ChunkAnswer answer;
  auto call = pool_->PrefillChunk(ChunkOf(7), Soon(), answer.Callback());
  ASSERT_TRUE(call.ok());
  EXPECT_TRUE(stub->AwaitPrefills(1));
  (*call)->Cancel();
  EXPECT_TRUE(absl::IsCancelled(answer.Wait().status()));
  EXPECT_TRUE(stub->AwaitCancelled(1));
  EXPECT_EQ(pool_->States()[0].in_flight, 0u);
}

TEST_F(WorkerPoolTest, PrefillChunkIsTriedElsewhereWhereThatHelps) {
  const auto first = Stub();
  const auto second = Stub();
  StartPool({first->address(), second->address()});
  AwaitReadyWorkers(2);
  first->Set({.prefill_failure = absl::ResourceExhaustedError("full")});
  for (uint32_t seed = 0; seed < 10; ++seed) {
    ChunkAnswer answer;
    auto call = pool_->PrefillChunk(ChunkOf(seed), Soon(), answer.Callback());
    ASSERT_TRUE(call.ok());
    EXPECT_TRUE(answer.Wait().ok());
  }
  EXPECT_EQ(second->prefills(), 10);
  EXPECT_EQ(pool_->Totals().retries, static_cast<uint64_t>(first->prefills()));

  for (StubWorker* const stub : {first.get(), second.get()}) {
    stub->Set({.prefill_failure = absl::FailedPreconditionError("no cache")});
  }
  const int before = first->prefills() + second->prefills();
  ChunkAnswer answer;
  auto call = pool_->PrefillChunk(ChunkOf(99), Soon(), answer.Callback());
  ASSERT_TRUE(call.ok());
  EXPECT_EQ(answer.Wait().status(), absl::FailedPreconditionError("no cache"));
  EXPECT_EQ(first->prefills() + second->prefills(), before + 1);
}

}  // namespace
}  // namespace tessera
