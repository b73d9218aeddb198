// Many requests at a time: each gets what it would get alone.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gpu_worker/serve/worker_fixture.h"

namespace tessera {
namespace {

class BatchingTest : public WorkerFixture {
 protected:
  // Prompts of all lengths: blends, full prefills, several answers, greedy and sampled.
  std::vector<GenerateRequest> Mixed(size_t count) const {
    std::vector<GenerateRequest> requests;
    for (uint32_t i = 0; i < count; ++i) {
      std::vector<std::vector<uint32_t>> segments = {lead_};
      if (i % 2 == 0) segments.push_back(a_);
      if (i % 3 == 0) segments.push_back(b_);
      if (i % 4 == 0) segments.push_back(c_);
      if (i % 5 == 1) segments.push_back(TinyTokens(i, 1 + static_cast<int>(i * 5)));
      segments.push_back(TinyTokens(100 + i, 1 + static_cast<int>(i % 13)));
      GenerateRequest request = Request(segments, 3 + i % 20);
      request.mutable_blend()->set_mode(i % 7 == 0 ? worker::v1::EXACT : worker::v1::BLEND);
      request.set_n(i % 6 == 5 ? 3 : 1);
      if (i % 3 == 2) {
        request.mutable_sampling()->set_temperature(1);
        request.mutable_sampling()->set_seed(i);
      }
      requests.push_back(std::move(request));
    }
    return requests;
  }
};

TEST_F(BatchingTest, SixtyFourAtATimeGetWhatEachGetsAlone) {
  StartWorker(/*queue=*/64);
  const std::vector<GenerateRequest> requests = Mixed(64);
  std::vector<Answer> together(requests.size());
  std::atomic<size_t> running = 0, most_running = 0;
  std::vector<std::thread> clients;
  for (size_t i = 0; i < requests.size(); ++i) {
    clients.emplace_back([&, i] {
      grpc::ClientContext context;
      auto reader = stub_->Generate(&context, requests[i]);
      GenerateResponse response;
      while (reader->Read(&response)) {
        // Between its first token and its last.
        if (together[i].ids.empty() && response.has_token()) {
          const size_t now = ++running;
          size_t most = most_running;
          while (now > most && !most_running.compare_exchange_weak(most, now)) {
          }
        }
        together[i].Add(response);
      }
      together[i].status = reader->Finish();
      --running;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(most_running, 1u);
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(together[i].status.ok()) << together[i].status.error_message();
    const Answer alone = Generate(requests[i]);
    for (uint32_t index = 0; index < requests[i].n(); ++index) {
      EXPECT_EQ(together[i].IdsOf(index), alone.IdsOf(index)) << "request " << i;
    }
    ASSERT_EQ(together[i].tokens.size(), alone.tokens.size());
    for (size_t t = 0; t < alone.tokens.size(); ++t) {
      EXPECT_EQ(together[i].tokens[t].logprob(), alone.tokens[t].logprob()) << "request " << i;
    }
  }
}

TEST_F(BatchingTest, OneThatLeavesDisturbsNoOther) {
  StartWorker(/*queue=*/64);
  const GenerateRequest kept = Request({lead_, a_, suffix_}, 60);
  const Answer alone = Generate(kept);
  std::vector<std::thread> leavers;
  for (uint32_t i = 0; i < 8; ++i) {
    leavers.emplace_back([&, i] {
      grpc::ClientContext context;
      auto reader = stub_->Generate(&context, Request({lead_, b_, TinyTokens(i, 5)}, 300));
      GenerateResponse response;
      for (uint32_t read = 0; read < 3 + i && reader->Read(&response); ++read) {
      }
      context.TryCancel();
      while (reader->Read(&response)) {
      }
      // OK where the whole answer was here before the client left.
      const grpc::StatusCode code = reader->Finish().error_code();
      EXPECT_TRUE(code == grpc::StatusCode::CANCELLED || code == grpc::StatusCode::OK) << code;
    });
  }
  EXPECT_EQ(Generate(kept).ids, alone.ids);
  for (std::thread& leaver : leavers) leaver.join();
}

}  // namespace
}  // namespace tessera
