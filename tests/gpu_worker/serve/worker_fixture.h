// A worker as a client sees it: a real server over a tiny model, with a real cache server behind.
#ifndef TESSERA_TESTS_GPU_WORKER_SERVE_WORKER_FIXTURE_H_
#define TESSERA_TESTS_GPU_WORKER_SERVE_WORKER_FIXTURE_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_worker/serve/worker_service.h"
#include "gtest/gtest.h"
#include "proto/worker.grpc.pb.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {

using worker::v1::GenerateRequest;
using worker::v1::GenerateResponse;
using worker::v1::PrefillChunkRequest;
using worker::v1::PrefillChunkResponse;

// All that a Generate call said.
struct Answer {
  grpc::Status status;
  std::vector<worker::v1::PromptLogprobs::Position> prompt;
  worker::v1::Started started;
  std::vector<worker::v1::Token> tokens;  // of all answers, as they came
  std::vector<uint32_t> ids;              // theirs
  std::vector<worker::v1::Finished> finishes;
  worker::v1::Finished finished;  // the last one
  bool in_order = true;           // what must come before other things did

  std::vector<uint32_t> IdsOf(uint32_t index) const {
    std::vector<uint32_t> ids;
    for (const auto& token : tokens) {
      if (token.index() == index) ids.push_back(token.id());
    }
    return ids;
  }

  void Add(const GenerateResponse& response) {
    if (response.has_prompt_logprobs()) {
      in_order &= !started.has_usage();
      const auto& positions = response.prompt_logprobs().positions();
      prompt.insert(prompt.end(), positions.begin(), positions.end());
    }
    if (response.has_started()) started = response.started();
    if (response.has_token()) {
      in_order &= started.has_usage();
      tokens.push_back(response.token());
      ids.push_back(response.token().id());
    }
    if (response.has_finished()) {
      finished = response.finished();
      finishes.push_back(finished);
    }
  }
};

struct ChunkAnswer {
  grpc::Status status;
  PrefillChunkResponse response;
};

class WorkerFixture : public TinyBlendTest {
 protected:
  void SetUp() override {
    TinyBlendTest::SetUp();
    StartWorker(/*queue=*/8);
  }

  // A worker with other options, or behind another client, in the place of the present one.
  void StartWorker(size_t queue) { StartWorker(EngineOptions{.queue = queue, .drift = drift_}); }
  void StartWorker(const EngineOptions& options) {
    StopWorker();
    writer_ = std::make_unique<ChunkWriter>(worker_->client, worker_->config.tokens_per_piece,
                                            most_bytes_);
    engine_ = std::make_unique<Engine>(worker_->decoder.get(), worker_->blender.get(),
                                       writer_.get(), options);
    auto server = StartWorkerServer("127.0.0.1:0", served_,
                                    {.decoder = worker_->decoder.get(),
                                     .defaults = &worker_->config,
                                     .engine = engine_.get(),
                                     .metrics = metrics_,
                                     .drift = drift_,
                                     .residents = &pool_->residents()});
    ASSERT_TRUE(server.ok()) << server.status();
    worker_server_ = std::move(*server);
    stub_ = worker::v1::Worker::NewStub(grpc::CreateChannel(
        absl::StrCat("127.0.0.1:", worker_server_->port()), grpc::InsecureChannelCredentials()));
  }

  void StopWorker() {
    worker_server_.reset();
    engine_.reset();
    writer_.reset();
  }

  void TearDown() override { StopWorker(); }

  // The writer stores in the background; it is done when its destructor returns.
  void WaitForStores() { StartWorker(8); }

  static GenerateRequest Request(const std::vector<std::vector<uint32_t>>& segments,
                                 uint32_t max_tokens = 5) {
    GenerateRequest request;
    for (const auto& ids : segments) {
      request.add_segments()->mutable_token_ids()->Assign(ids.begin(), ids.end());
    }
    request.set_max_tokens(max_tokens);
    request.set_ignore_eos(true);
    return request;
  }

  static PrefillChunkRequest ChunkRequest(const std::vector<uint32_t>& ids) {
    PrefillChunkRequest request;
    request.mutable_segment()->mutable_token_ids()->Assign(ids.begin(), ids.end());
    return request;
  }

  Answer Generate(const GenerateRequest& request) {
    grpc::ClientContext context;
    auto reader = stub_->Generate(&context, request);
    Answer answer;
    GenerateResponse response;
    while (reader->Read(&response)) answer.Add(response);
    answer.status = reader->Finish();
    EXPECT_TRUE(answer.in_order);
    return answer;
  }

  ChunkAnswer Prefill(const PrefillChunkRequest& request) {
    grpc::ClientContext context;
    ChunkAnswer answer;
    answer.status = stub_->PrefillChunk(&context, request, &answer.response);
    return answer;
  }

  ServedModel served_ = {"tiny", "fingerprint", true};
  int64_t most_bytes_ = 1 << 24;
  WorkerMetrics* metrics_ = nullptr;
  DriftSampler* drift_ = nullptr;
  // The worker's, where a test makes one with it.
  std::unique_ptr<ChunkPool> pool_ = std::make_unique<ChunkPool>(0);
  std::unique_ptr<ChunkWriter> writer_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<WorkerServer> worker_server_;
  std::unique_ptr<worker::v1::Worker::Stub> stub_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_GPU_WORKER_SERVE_WORKER_FIXTURE_H_
