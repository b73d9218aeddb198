// The worker's service: what it says of itself, cancellation, its bounds, and a cache that dies.
#include "gpu_worker/serve/worker_service.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/serve/worker_fixture.h"

namespace tessera {
namespace {

class WorkerServiceTest : public WorkerFixture {};

TEST_F(WorkerServiceTest, SaysWhatItServes) {
  grpc::ClientContext context;
  worker::v1::GetModelResponse model;
  ASSERT_TRUE(stub_->GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_EQ(model.max_len(), 512u);
  EXPECT_EQ(model.vocab_size(), 96u);
  EXPECT_EQ(model.default_blend().policy(), "query_v");
  EXPECT_TRUE(model.default_blend().correction());
}

TEST_F(WorkerServiceTest, SaysWhatItsDefaultsWereChosenFor) {
  worker::v1::GetModelResponse model;
  for (const char* calibration : {"", "KL=0.2,2026-11-28"}) {
    served_.calibration = calibration;
    StartWorker(/*queue=*/8);
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->GetModel(&context, {}, &model).ok());
    EXPECT_EQ(model.calibration(), calibration);
  }
}

TEST_F(WorkerServiceTest, GeneratesAndAccountsForEveryToken) {
  const Answer cold = Generate(Request({lead_, a_, b_, suffix_}));
  ASSERT_TRUE(cold.status.ok()) << cold.status.error_message();
  EXPECT_EQ(cold.ids.size(), 5u);
  EXPECT_EQ(cold.finished.reason(), worker::v1::Finished::LENGTH);
  EXPECT_EQ(cold.started.usage().computed_tokens(),
            lead_.size() + a_.size() + b_.size() + suffix_.size());
  WaitForStores();
  const Answer warm = Generate(Request({lead_, a_, b_, suffix_}));
  EXPECT_EQ(warm.ids, cold.ids);
  const auto& usage = warm.started.usage();
  EXPECT_EQ(usage.exact_tokens(), lead_.size());
  EXPECT_EQ(usage.blended_tokens() + usage.recomputed_tokens(), a_.size() + b_.size());
  EXPECT_EQ(usage.recomputed_tokens(), 13u);  // ceil(.15 x 83)
  EXPECT_EQ(usage.computed_tokens(), suffix_.size());
  EXPECT_EQ(warm.started.policy(), "query_v");
  EXPECT_TRUE(warm.started.correction());
  ASSERT_EQ(warm.started.segments_size(), 4);
  EXPECT_EQ(warm.started.segments(1).source(), worker::v1::SegmentReport::CACHE);
  EXPECT_EQ(warm.started.segments(1).tier(), "ram");
  EXPECT_TRUE(warm.started.segments(0).exact());
  EXPECT_FALSE(warm.started.segments(1).exact());
  EXPECT_EQ(warm.started.segments(1).cached_tokens(), a_.size());
  EXPECT_EQ(warm.started.segments(3).cached_tokens(), 0u);
  EXPECT_TRUE(warm.started.segments(1).recomputed_rows().empty());  // not asked for
  EXPECT_EQ(warm.started.segments(3).source(), worker::v1::SegmentReport::COMPUTED);
}

TEST_F(WorkerServiceTest, ReportsRecomputedRowsOnRequest) {
  GenerateRequest request = Request({lead_, a_, b_, suffix_});
  request.mutable_blend()->set_report_rows(true);
  const Answer cold = Generate(request);
  for (const auto& segment : cold.started.segments()) {
    // Chosen rows of what was not cached are no recomputed ones.
    EXPECT_TRUE(segment.recomputed_rows().empty());
  }
  WaitForStores();
  for (const float ratio : {0.15f, 1.0f}) {
    request.mutable_blend()->set_recompute_ratio(ratio);
    const Answer warm = Generate(request);
    for (const auto& segment : warm.started.segments()) {
      const auto& runs = segment.recomputed_rows();
      ASSERT_EQ(runs.size() % 2, 0);
      uint32_t rows = 0;
      for (int i = 0; i < runs.size(); i += 2) {
        EXPECT_GT(runs[i + 1], 0u);
        EXPECT_LE(runs[i] + runs[i + 1], segment.cached_tokens());
        // Of touching runs, one would have been made.
        EXPECT_TRUE(i == 0 || runs[i] > runs[i - 2] + runs[i - 1]);
        rows += runs[i + 1];
      }
      EXPECT_EQ(rows, segment.recomputed_tokens());
    }
    EXPECT_TRUE(ratio < 1 || warm.started.segments(2).recomputed_rows_size() == 2);
  }
}

TEST_F(WorkerServiceTest, StopsAtEndTokens) {
  const Answer all = Generate(Request({lead_, a_, suffix_}));
  GenerateRequest request = Request({lead_, a_, suffix_});
  request.add_stop_token_ids(all.ids[2]);
  const Answer stopped = Generate(request);
  const size_t first = std::find(all.ids.begin(), all.ids.end(), all.ids[2]) - all.ids.begin();
  EXPECT_EQ(stopped.ids.size(), first + 1);
  EXPECT_EQ(stopped.finished.reason(), worker::v1::Finished::STOP);
}

TEST_F(WorkerServiceTest, SeededSamplingRepeats) {
  GenerateRequest request = Request({lead_, a_, suffix_}, 20);
  request.mutable_sampling()->set_temperature(1.5);
  request.mutable_sampling()->set_seed(11);
  const Answer one = Generate(request), two = Generate(request);
  EXPECT_EQ(one.ids, two.ids);
  request.mutable_sampling()->set_seed(12);
  EXPECT_NE(one.ids, Generate(request).ids);
}

TEST_F(WorkerServiceTest, RefusesBadRequestsByField) {
  auto expect = [&](const GenerateRequest& request, const std::string& word) {
    const Answer answer = Generate(request);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << word;
    EXPECT_TRUE(absl::StrContains(answer.status.error_message(), word))
        << answer.status.error_message();
  };
  expect(Request({}), "empty");
  expect(Request({lead_, {}, suffix_}), "segments[1]");
  expect(Request({lead_, {96}, suffix_}), "token id 96");
  expect(Request({TinyTokens(1, 512)}), "shorten the prompt");
  expect(Request({TinyTokens(1, 500)}, 13), "lower max_tokens to 12");
  GenerateRequest request = Request({lead_, a_, suffix_});
  request.mutable_blend()->set_recompute_ratio(1.5);
  expect(request, "between 0 and 1");
  request = Request({lead_, a_, suffix_});
  request.mutable_blend()->set_policy("best");
  expect(request, "query_v");
  request = Request({lead_, a_, suffix_});
  request.mutable_sampling()->set_top_p(2);
  expect(request, "top_p");
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_temperature(-1);
  expect(request, "temperature");
  EXPECT_TRUE(Generate(Request({lead_, a_, suffix_})).status.ok());
}

TEST_F(WorkerServiceTest, TheCacheServerDyingInMidRequestChangesNothing) {
  const Answer before = Generate(Request({lead_, a_, b_, suffix_}, 60));
  WaitForStores();
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, Request({lead_, a_, b_, suffix_}, 60));
  GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  server_->Stop(absl::ZeroDuration());
  std::vector<uint32_t> ids;
  while (reader->Read(&response)) {
    if (response.has_token()) ids.push_back(response.token().id());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(ids, before.ids);
  const Answer without = Generate(Request({lead_, a_, b_, suffix_}, 60));
  EXPECT_EQ(without.ids, before.ids);
  EXPECT_EQ(without.started.usage().exact_tokens(), 0u);
}

TEST_F(WorkerServiceTest, CancellingStopsTheWorkAndFreesTheQueue) {
  for (int i = 0; i < 10; ++i) {
    grpc::ClientContext context;
    auto reader = stub_->Generate(&context, Request({lead_, a_, suffix_}, 400));
    GenerateResponse response;
    ASSERT_TRUE(reader->Read(&response));
    context.TryCancel();
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(Generate(Request({lead_, a_, suffix_})).status.ok());
}

TEST_F(WorkerServiceTest, AFullQueueIsRefused) {
  StartWorker(/*queue=*/1);
  // One runs, one waits, the third is refused; which call is which depends on the network.
  std::vector<std::thread> threads;
  std::atomic<int> refused = 0, served = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const Answer answer = Generate(Request({lead_, a_, b_, c_, suffix_}, 300));
      served += answer.status.ok();
      refused += answer.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(served + refused, 8);
  EXPECT_GE(served, 1);
  EXPECT_GE(refused, 1);
}

TEST_F(WorkerServiceTest, ATakenAddressIsAClearError) {
  auto second = StartWorkerServer(
      absl::StrCat("127.0.0.1:", worker_server_->port()), {"tiny", "", true},
      {.decoder = worker_->decoder.get(), .defaults = &worker_->config, .engine = engine_.get()});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tessera
