// However a request ends, all that it held comes back, and the next one is answered.
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "tests/gpu_worker/serve/worker_fixture.h"

namespace tessera {
namespace {

class EndingsTest : public WorkerFixture {
 protected:
  void SetUp() override {
    WorkerFixture::SetUp();
    fresh_ = Generate(Request({lead_, a_, b_, suffix_}));
    WaitForStores();
    ASSERT_EQ(fresh_.ids.size(), 5u);
  }

  // A call under way, whose answer goes on for as long as the model allows.
  struct Call {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<GenerateResponse>> reader;

    // Reads until the first token. False: the call ended before.
    bool AwaitToken() {
      GenerateResponse response;
      while (reader->Read(&response)) {
        if (response.has_token()) return true;
      }
      return false;
    }
    grpc::StatusCode Finish() {
      GenerateResponse response;
      while (reader->Read(&response)) {
      }
      return reader->Finish().error_code();
    }
  };

  std::unique_ptr<Call> Begin(const std::vector<std::vector<uint32_t>>& segments,
                              std::chrono::milliseconds timeout = std::chrono::hours(1)) {
    auto call = std::make_unique<Call>();
    call->context.set_deadline(std::chrono::system_clock::now() + timeout);
    call->reader = stub_->Generate(&call->context, Request(segments, 0));
    return call;
  }

  // All blocks are free or hold prefixes for later, and the worker still answers as before.
  void ExpectNothingHeld() {
    while (engine_->stats().running + engine_->stats().waiting > 0) std::this_thread::yield();
    const EngineStats stats = engine_->stats();
    EXPECT_EQ(stats.free_blocks + stats.idle_blocks, stats.kv_blocks);
    const Answer again = Generate(Request({lead_, a_, b_, suffix_}));
    EXPECT_EQ(again.ids, fresh_.ids);
  }

  Answer fresh_;
};

TEST_F(EndingsTest, TheClientLeavesBetweenTokens) {
  const auto call = Begin({lead_, a_, suffix_});
  ASSERT_TRUE(call->AwaitToken());
  call->context.TryCancel();
  EXPECT_EQ(call->Finish(), grpc::StatusCode::CANCELLED);
  ExpectNothingHeld();
}

TEST_F(EndingsTest, TheClientLeavesWhileItsChunksAreOnTheirWay) {
  control_->CloseGate();
  const auto call = Begin({lead_, a_, suffix_});
  control_->WaitForArrivals(1);
  const auto other = Begin({suffix_});
  EXPECT_TRUE(other->AwaitToken()) << "who needs no chunk does not wait for those of another";
  other->context.TryCancel();
  call->context.TryCancel();
  EXPECT_EQ(call->Finish(), grpc::StatusCode::CANCELLED);
  while (engine_->stats().running > 0) std::this_thread::yield();
  control_->OpenGate();
  ExpectNothingHeld();
}

TEST_F(EndingsTest, TheDeadlinePassesBetweenTokens) {
  // Its answer of 400 tokens may also end first on a fast machine: then nothing is wrong either.
  const auto call = Begin({lead_, a_, suffix_}, std::chrono::milliseconds(40));
  const grpc::StatusCode code = call->Finish();
  EXPECT_TRUE(code == grpc::StatusCode::DEADLINE_EXCEEDED || code == grpc::StatusCode::OK) << code;
  ExpectNothingHeld();
}

TEST_F(EndingsTest, TheDeadlinePassesWhileItWaitsForItsChunks) {
  control_->CloseGate();
  const auto call = Begin({lead_, a_, suffix_}, std::chrono::milliseconds(200));
  EXPECT_EQ(call->Finish(), grpc::StatusCode::DEADLINE_EXCEEDED);
  while (engine_->stats().running > 0) std::this_thread::yield();
  control_->OpenGate();
  ExpectNothingHeld();
}

TEST_F(EndingsTest, TheDeadlinePassesInTheQueue) {
  StartWorker(EngineOptions{.queue = 8, .scheduler = {.max_running = 1}});
  control_->CloseGate();
  const auto running = Begin({lead_, a_, suffix_});
  control_->WaitForArrivals(1);
  const auto waiting = Begin({suffix_}, std::chrono::milliseconds(100));
  EXPECT_EQ(waiting->Finish(), grpc::StatusCode::DEADLINE_EXCEEDED);
  control_->OpenGate();
  EXPECT_TRUE(running->AwaitToken());
  running->context.TryCancel();
  ExpectNothingHeld();
}

TEST_F(EndingsTest, TheCacheDiesInTheMiddleOfALoad) {
  control_->CloseGate();
  const auto call = Begin({lead_, a_, b_, suffix_});
  control_->WaitForArrivals(1);
  std::thread stopper([this] { server_->Stop(absl::ZeroDuration()); });
  EXPECT_TRUE(call->AwaitToken()) << "it is computed then";
  call->context.TryCancel();
  control_->OpenGate();
  stopper.join();
  ExpectNothingHeld();
}

TEST_F(EndingsTest, MoreThanMemoryHoldsAtATime) {
  // Nine blocks of 64 positions: one of these requests takes up to six.
  StartWorker(EngineOptions{.queue = 16, .kv_tokens = 1});
  std::vector<std::thread> clients;
  std::vector<Answer> answers(12);
  for (uint32_t i = 0; i < answers.size(); ++i) {
    clients.emplace_back([this, i, &answers] {
      answers[i] = Generate(Request({lead_, a_, TinyTokens(i, 100)}, 200));
    });
  }
  for (std::thread& client : clients) client.join();
  for (const Answer& answer : answers) EXPECT_EQ(answer.ids.size(), 200u);
  ExpectNothingHeld();
}

TEST_F(EndingsTest, MoreThanTheQueueHolds) {
  StartWorker(EngineOptions{.queue = 2, .scheduler = {.max_running = 1}});
  control_->CloseGate();
  const auto running = Begin({lead_, a_, suffix_});
  control_->WaitForArrivals(1);
  std::vector<std::unique_ptr<Call>> waiting;
  for (int i = 0; i < 2; ++i) {
    waiting.push_back(Begin({suffix_}));
    while (engine_->stats().waiting < waiting.size()) std::this_thread::yield();
  }
  EXPECT_EQ(Begin({suffix_})->Finish(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  for (const auto& call : waiting) call->context.TryCancel();
  running->context.TryCancel();
  control_->OpenGate();
  for (const auto& call : waiting) EXPECT_EQ(call->Finish(), grpc::StatusCode::CANCELLED);
  ExpectNothingHeld();
}

}  // namespace
}  // namespace tessera
