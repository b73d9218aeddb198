// A WorkerPool over real gRPC workers without a model.
#ifndef TESSERA_TESTS_GATEWAY_ROUTER_POOL_FIXTURE_H_
#define TESSERA_TESTS_GATEWAY_ROUTER_POOL_FIXTURE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/router/worker_client.h"
#include "gateway/router/worker_pool.h"
#include "gtest/gtest.h"
#include "proto/worker.pb.h"
#include "tests/gateway/stub_worker.h"

namespace tessera {

namespace v1 = worker::v1;

inline constexpr uint32_t kEos = 9;

// The answer of a PrefillChunk.
class ChunkAnswer {
 public:
  WorkerClient::ChunkCallback Callback() {
    return [this](absl::StatusOr<v1::PrefillChunkResponse> response) {
      response_ = std::move(response);
      done_.Notify();
    };
  }

  absl::StatusOr<v1::PrefillChunkResponse> Wait() {
    EXPECT_TRUE(done_.WaitForNotificationWithTimeout(absl::Seconds(30)));
    return response_;
  }

 private:
  absl::StatusOr<v1::PrefillChunkResponse> response_;
  absl::Notification done_;
};

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

inline v1::GenerateRequest Request(std::vector<uint32_t> ids, uint32_t max_tokens = 100) {
  v1::GenerateRequest request;
  request.add_segments()->mutable_token_ids()->Add(ids.begin(), ids.end());
  request.set_max_tokens(max_tokens);
  return request;
}

// Chunks of 100 tokens each and a suffix; equal seeds are equal chunks.
inline v1::GenerateRequest ChunksRequest(const std::vector<uint32_t>& seeds) {
  v1::GenerateRequest request;
  for (const uint32_t seed : seeds) {
    v1::Segment* const segment = request.add_segments();
    for (uint32_t i = 0; i < 100; ++i) segment->add_token_ids(seed * 1000 + i);
  }
  request.add_segments()->add_token_ids(1);
  request.set_max_tokens(1);
  return request;
}

// One of those chunks, to be computed ahead.
inline v1::PrefillChunkRequest ChunkOf(uint32_t seed) {
  v1::PrefillChunkRequest request;
  *request.mutable_segment() = ChunksRequest({seed}).segments(0);
  return request;
}

inline absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

inline std::unique_ptr<StubWorker> Stub(const std::string& model = "m", int port = 0,
                                        const StubBehaviour& behaviour = {}) {
  return StubWorker::Start(model, 1000, 100, kEos, port, behaviour);
}

class PoolFixture : public testing::Test {
 protected:
  void StartPool(const std::vector<std::string>& addresses, WorkerPoolOptions options = {}) {
    options.poll_down = absl::Milliseconds(20);
    std::vector<std::unique_ptr<WorkerClient>> clients;
    for (const std::string& address : addresses) clients.push_back(ConnectWorker(address));
    pool_ = std::make_unique<WorkerPool>(std::move(clients), options);
    pool_->Start();
  }

  // Polling has no event to wait for from outside; so ask, for 30 seconds at most.
  template <typename Predicate>
  void Await(Predicate predicate) {
    const absl::Time deadline = Soon();
    while (!predicate() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
    ASSERT_TRUE(predicate());
  }
  void AwaitReady(bool ready = true) {
    Await([&] { return pool_->ready() == ready; });
  }
  void AwaitReadyWorkers(size_t count) {
    Await([&] {
      const std::vector<WorkerState> states = pool_->States();
      return count == static_cast<size_t>(
                          std::count_if(states.begin(), states.end(),
                                        [](const WorkerState& state) { return state.ready; }));
    });
  }

  // Runs a request to its end.
  absl::Status Run(const v1::GenerateRequest& request) {
    Listener listener;
    const auto call = pool_->Generate(request, Soon(), &listener);
    return call.ok() ? listener.Wait() : call.status();
  }

  std::unique_ptr<WorkerPool> pool_;
};

// Two workers, of which a test calls one the home of its chunks.
class TwoWorkersFixture : public PoolFixture {
 protected:
  void SetUp() override {
    home_ = Stub();
    other_ = Stub();
  }

  // A gateway that has routed nothing yet.
  void StartTwo(const WorkerPoolOptions& options) {
    pool_.reset();
    StartPool({home_->address(), other_->address()}, options);
    AwaitReadyWorkers(2);
  }

  // Makes the one that the hash of chunk 1 points to the home; the gateway has seen the chunk then.
  void FindHome() {
    const int before = other_->calls();
    ASSERT_TRUE(Run(ChunksRequest({1})).ok());
    if (other_->calls() != before) std::swap(home_, other_);
  }

  // Whether the home worker took it.
  bool GoesHome(const v1::GenerateRequest& request) {
    const int before = home_->calls();
    EXPECT_TRUE(Run(request).ok());
    return home_->calls() != before;
  }

  std::unique_ptr<StubWorker> home_;
  std::unique_ptr<StubWorker> other_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_GATEWAY_ROUTER_POOL_FIXTURE_H_
