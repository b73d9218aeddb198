// Requests that run at the same time and want the same chunks: loaded once, whoever leaves.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/forwarding_client.h"
#include "tests/gpu_worker/serve/worker_fixture.h"

namespace tessera {
namespace {

// A cache whose answers can be held back.
class HeldAnswers final : public ForwardingClient {
 public:
  using ForwardingClient::ForwardingClient;
  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override {
    return std::make_unique<Stream>(ForwardingClient::Fetch(std::move(targets), options), &held);
  }

  std::atomic<bool> held = false;

 private:
  class Stream final : public ForwardingStream {
   public:
    Stream(std::unique_ptr<FetchStream> real, const std::atomic<bool>* held)
        : ForwardingStream(std::move(real)), held_(*held) {}
    bool HeaderReady() override { return !held_ && ForwardingStream::HeaderReady(); }
    bool SliceReady(size_t target, uint32_t layer) override {
      return !held_ && ForwardingStream::SliceReady(target, layer);
    }
    absl::Time ready_by() override { return absl::InfiniteFuture(); }

   private:
    const std::atomic<bool>& held_;
  };
};

// A Generate call on a thread of its own.
class RunningCall {
 public:
  RunningCall(worker::v1::Worker::Stub* stub, const GenerateRequest& request)
      : reader_(stub->Generate(&context_, request)), thread_([this] { Read(); }) {}
  ~RunningCall() {
    if (thread_.joinable()) thread_.join();
  }

  void Cancel() { context_.TryCancel(); }
  const Answer& Wait() {
    thread_.join();
    return answer_;
  }

 private:
  void Read() {
    GenerateResponse response;
    while (reader_->Read(&response)) answer_.Add(response);
    answer_.status = reader_->Finish();
  }

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<GenerateResponse>> reader_;
  Answer answer_;
  std::thread thread_;
};

class SharedLoadsTest : public WorkerFixture {
 protected:
  void SetUp() override {
    WorkerFixture::SetUp();
    StopWorker();
    pool_ = std::make_unique<ChunkPool>(0);  // nothing stays: all that is shared is on its way
    cache_ = std::make_unique<HeldAnswers>(client_.get());
    worker_ = std::make_unique<TinyWorker>(cache_.get(), TinyWorker::SmallPieces(), pool_.get());
    StartWorker(/*queue=*/8);
  }

  // Answers of a worker that shares nothing; and the cache server has the chunks then.
  std::vector<uint32_t> Alone(const GenerateRequest& request) {
    const Answer answer = Generate(request);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    WaitForStores();
    return answer.ids;
  }

  // Waits until a number of the pool's stats is so large; there is no event for it outside.
  void Await(uint64_t ChunkPoolStats::*number, uint64_t value) {
    const absl::Time end = absl::Now() + absl::Seconds(30);
    while (pool_->stats().*number < value && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    ASSERT_GE(pool_->stats().*number, value);
  }
  void Hold() { cache_->held = true; }
  void Release() {
    cache_->held = false;
    pool_->Progress();
  }

  static int Pieces(const std::vector<uint32_t>& tokens) {
    return static_cast<int>(tokens.size() + 15) / 16;
  }

  void TearDown() override {
    WorkerFixture::TearDown();
    worker_.reset();
  }

  std::unique_ptr<HeldAnswers> cache_;
};

TEST_F(SharedLoadsTest, AreFetchedOnce) {
  const GenerateRequest ab = Request({lead_, a_, b_, suffix_}),
                        ba = Request({lead_, b_, a_, suffix_});
  const std::vector<uint32_t> want_ab = Alone(ab), want_ba = Alone(ba);
  const int before = control_->gets();
  Hold();
  RunningCall first(stub_.get(), ab), second(stub_.get(), ba);
  Await(&ChunkPoolStats::joined, 3);
  Release();
  EXPECT_EQ(first.Wait().ids, want_ab);
  EXPECT_EQ(second.Wait().ids, want_ba);
  EXPECT_EQ(control_->gets() - before, Pieces(lead_) + Pieces(a_) + Pieces(b_));
}

TEST_F(SharedLoadsTest, WhoIsCancelledTakesNothingFromTheOther) {
  const GenerateRequest request = Request({lead_, a_, suffix_});
  const std::vector<uint32_t> want = Alone(request);
  const int before = control_->gets();
  Hold();
  RunningCall first(stub_.get(), request), second(stub_.get(), request);
  Await(&ChunkPoolStats::joined, 2);
  first.Cancel();
  EXPECT_EQ(first.Wait().status.error_code(), grpc::StatusCode::CANCELLED);
  Release();
  EXPECT_EQ(second.Wait().ids, want);
  EXPECT_EQ(control_->gets() - before, Pieces(lead_) + Pieces(a_));
}

TEST_F(SharedLoadsTest, MissingOnesAreComputedOnce) {
  Hold();
  const GenerateRequest request = Request({lead_, a_, b_, suffix_});
  RunningCall first(stub_.get(), request), second(stub_.get(), request);
  Await(&ChunkPoolStats::joined, 3);
  Release();
  const Answer one = first.Wait(), two = second.Wait();
  ASSERT_TRUE(one.status.ok() && two.status.ok());
  EXPECT_EQ(one.ids, two.ids);
  EXPECT_EQ(pool_->stats().joined, 3u);
  EXPECT_EQ(pool_->stats().misses, 3u);
  WaitForStores();
  EXPECT_EQ(entries(), static_cast<uint64_t>(Pieces(lead_) + Pieces(a_) + Pieces(b_)));
}

// While one request waits for the cache, another one is prefilled and answered.
TEST_F(SharedLoadsTest, AWaitForTheCacheHoldsUpNobodyElse) {
  const GenerateRequest cached = Request({lead_, a_, suffix_});
  const std::vector<uint32_t> want = Alone(cached);
  Hold();
  const uint64_t misses = pool_->stats().misses;
  RunningCall waiting(stub_.get(), cached);
  Await(&ChunkPoolStats::misses, misses + 2);
  GenerateRequest plain = Request({c_});
  plain.mutable_blend()->set_mode(worker::v1::OFF);
  EXPECT_TRUE(Generate(plain).status.ok());
  Release();
  EXPECT_EQ(waiting.Wait().ids, want);
}

// Clients that come and leave, a pool that is too small for their chunks, and a cache that dies on
// the way: whoever stays gets what it would get alone.
TEST_F(SharedLoadsTest, WhateverHappensTheAnswersAreTheSame) {
  std::vector<GenerateRequest> requests;
  for (const auto& chunks : {std::vector{a_, b_}, {b_, a_}, {c_, b_}, {a_, c_, b_}, {c_}, {b_}}) {
    std::vector<std::vector<uint32_t>> segments = {lead_};
    segments.insert(segments.end(), chunks.begin(), chunks.end());
    segments.push_back(suffix_);
    requests.push_back(Request(segments));
  }
  std::vector<std::vector<uint32_t>> want;
  for (const GenerateRequest& request : requests) want.push_back(Alone(request));
  StopWorker();
  pool_ = std::make_unique<ChunkPool>(25'000);
  worker_ = std::make_unique<TinyWorker>(cache_.get(), TinyWorker::SmallPieces(), pool_.get());
  StartWorker(/*queue=*/8);
  constexpr int kClients = 4, kRounds = 30;
  std::atomic<int> answered = 0;
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      for (int round = 0; round < kRounds; ++round) {
        const size_t kind = (client * 7 + round * 5) % requests.size();
        RunningCall call(stub_.get(), requests[kind]);
        const bool leaves = (client + round) % 3 == 0;
        if (leaves) call.Cancel();
        const Answer& answer = call.Wait();
        if (leaves && !answer.status.ok()) continue;
        EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
        EXPECT_EQ(answer.ids, want[kind]);
        ++answered;
      }
    });
  }
  while (answered < kClients * kRounds / 4) absl::SleepFor(absl::Milliseconds(1));
  server_->Stop(absl::ZeroDuration());
  for (std::thread& client : clients) client.join();
  const ChunkPoolStats stats = pool_->stats();
  EXPECT_GT(stats.hits, 0u);
  EXPECT_GT(stats.evictions, 0u);
  EXPECT_LE(stats.resident_bytes, stats.limit_bytes);
}

}  // namespace
}  // namespace tessera
