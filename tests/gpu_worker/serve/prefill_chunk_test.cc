// Chunks computed ahead of the prompts that use them.
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/serve/worker_fixture.h"

namespace tessera {
namespace {

using worker::v1::SegmentReport;

class PrefillChunkTest : public WorkerFixture {
 protected:
  // Key of a piece by the definitions, without the worker's help: behind the sink bos (1).
  ChunkKey KeyOf(const std::vector<uint32_t>& ids, const std::string& salt = "") const {
    return MakeChunkKey(worker_->fingerprint, salt, {1}, ids);
  }
  ChunkKey PieceOf(const std::vector<uint32_t>& ids, int piece) const {
    return MakePieceKey(KeyOf(ids), 16, piece);
  }

  void ExpectRefused(const PrefillChunkRequest& request, grpc::StatusCode code,
                     const std::string& word) {
    const grpc::Status status = Prefill(request).status;
    EXPECT_EQ(status.error_code(), code) << word;
    EXPECT_TRUE(absl::StrContains(status.error_message(), word)) << status.error_message();
  }
};

TEST_F(PrefillChunkTest, APromptFindsItAndAnswersAsACold) {
  const std::vector<std::vector<uint32_t>> prompt = {lead_, a_, b_, suffix_};
  GenerateRequest request = Request(prompt, 20);
  request.mutable_blend()->set_store(false);
  const Answer cold = Generate(request);
  EXPECT_EQ(cold.started.segments(2).source(), SegmentReport::COMPUTED);

  const ChunkAnswer made = Prefill(ChunkRequest(b_));
  ASSERT_TRUE(made.status.ok()) << made.status.error_message();
  EXPECT_EQ(made.response.chunk_key(), KeyOf(b_).AsBytes());
  ASSERT_EQ(made.response.piece_keys_size(), 3);  // 33 tokens
  for (int i = 0; i < 3; ++i) EXPECT_EQ(made.response.piece_keys(i), PieceOf(b_, i).AsBytes());
  EXPECT_EQ(made.response.tokens(), 33u);
  EXPECT_EQ(made.response.bytes(), 33u * 3 * 2 * 2 * 16 * 2);  // layers, K and V, heads, dim, bf16
  EXPECT_EQ(made.response.cached_tokens(), 0u);
  EXPECT_EQ(made.response.rejected_pieces(), 0u);
  EXPECT_EQ(entries(), 3u) << "all is there when the call returns";

  const Answer warm = Generate(request);
  EXPECT_EQ(warm.started.segments(2).source(), SegmentReport::CACHE);
  EXPECT_EQ(warm.started.segments(1).source(), SegmentReport::COMPUTED);
  EXPECT_EQ(warm.ids, cold.ids);
}

TEST_F(PrefillChunkTest, WhatIsThereIsNeitherComputedNorMoved) {
  ASSERT_TRUE(Prefill(ChunkRequest(a_)).status.ok());
  const ClientCounters before = client_->counters();
  const ChunkAnswer again = Prefill(ChunkRequest(a_));
  ASSERT_TRUE(again.status.ok());
  EXPECT_EQ(again.response.cached_tokens(), a_.size());
  EXPECT_EQ(again.response.piece_keys_size(), 4);
  const ClientCounters after = client_->counters();
  EXPECT_EQ(after.fetched_bytes, before.fetched_bytes);
  EXPECT_EQ(after.stored_bytes, before.stored_bytes);
  EXPECT_EQ(control_->gets(), 0);
}

TEST_F(PrefillChunkTest, ChunksOfAPromptAreFoundAsWell) {
  Generate(Request({lead_, a_, b_, suffix_}));
  WaitForStores();
  EXPECT_EQ(Prefill(ChunkRequest(b_)).response.cached_tokens(), b_.size());
  EXPECT_EQ(Prefill(ChunkRequest(lead_)).response.cached_tokens(), 0u) << "a lead has no sink";
}

TEST_F(PrefillChunkTest, OnlyTheTailFromTheFirstMissingPieceIsComputed) {
  const ChunkAnswer whole = Prefill(ChunkRequest(a_));
  const Answer want = Generate(Request({lead_, a_, suffix_}, 20));
  const uint64_t piece_bytes = 16 * 3 * 2 * 2 * 16 * 2;
  for (int missing = 0; missing < 4; ++missing) {
    ASSERT_TRUE(store_->Erase(PieceOf(a_, missing)));
    const ClientCounters before = client_->counters();
    const ChunkAnswer made = Prefill(ChunkRequest(a_));
    ASSERT_TRUE(made.status.ok()) << made.status.error_message();
    const uint64_t lost = missing < 3 ? 16 : 2;
    EXPECT_EQ(made.response.cached_tokens(), a_.size() - lost);
    EXPECT_EQ(made.response.chunk_key(), whole.response.chunk_key());
    EXPECT_EQ(client_->counters().fetched_bytes - before.fetched_bytes, missing * piece_bytes);
    EXPECT_EQ(client_->counters().stored_bytes - before.stored_bytes, piece_bytes * lost / 16);
    const Answer answer = Generate(Request({lead_, a_, suffix_}, 20));
    EXPECT_EQ(answer.started.segments(1).source(), SegmentReport::CACHE);
    EXPECT_EQ(answer.ids, want.ids) << "without piece " << missing;
  }
}

TEST_F(PrefillChunkTest, ADamagedPieceIsComputedAgain) {
  Prefill(ChunkRequest(a_));
  const Answer want = Generate(Request({lead_, a_, suffix_}, 20));
  ASSERT_TRUE(store_->Erase(PieceOf(a_, 2)));
  control_->FailGets(absl::NotFoundError("gone"));  // after it was asked for
  const ChunkAnswer made = Prefill(ChunkRequest(a_));
  ASSERT_TRUE(made.status.ok()) << made.status.error_message();
  EXPECT_EQ(made.response.cached_tokens(), 2u) << "the last piece alone was of use";
  control_->FailGets(absl::OkStatus());
  EXPECT_EQ(Generate(Request({lead_, a_, suffix_}, 20)).ids, want.ids);
}

TEST_F(PrefillChunkTest, SaltsShareNothing) {
  PrefillChunkRequest request = ChunkRequest(a_);
  const std::string plain = Prefill(request).response.chunk_key();
  request.set_cache_salt("tenant");
  const ChunkAnswer salted = Prefill(request);
  EXPECT_EQ(salted.response.cached_tokens(), 0u);
  EXPECT_EQ(salted.response.chunk_key(), KeyOf(a_, "tenant").AsBytes());
  EXPECT_NE(salted.response.chunk_key(), plain);
  GenerateRequest prompt = Request({lead_, a_, suffix_});
  prompt.set_cache_salt("tenant");
  EXPECT_EQ(Generate(prompt).started.segments(1).source(), SegmentReport::CACHE);
  prompt.set_cache_salt("other");
  EXPECT_EQ(Generate(prompt).started.segments(1).source(), SegmentReport::COMPUTED);
}

TEST_F(PrefillChunkTest, ACacheWithoutRoomIsSaid) {
  control_->FailAllocates(absl::ResourceExhaustedError("full"));
  const ChunkAnswer made = Prefill(ChunkRequest(a_));
  ASSERT_TRUE(made.status.ok()) << made.status.error_message();
  EXPECT_EQ(made.response.rejected_pieces(), 4u);
  EXPECT_EQ(made.response.cached_tokens(), 0u);
  control_->FailAllocates(absl::OkStatus());
  EXPECT_EQ(Prefill(ChunkRequest(a_)).response.rejected_pieces(), 0u);
}

TEST_F(PrefillChunkTest, ACacheThatIsGoneIsSaidToo) {
  server_->Stop(absl::ZeroDuration());
  const ChunkAnswer made = Prefill(ChunkRequest(a_));
  ASSERT_TRUE(made.status.ok()) << made.status.error_message();
  EXPECT_EQ(made.response.rejected_pieces(), 4u);
}

TEST_F(PrefillChunkTest, LongestSegment) {
  const ChunkAnswer made = Prefill(ChunkRequest(TinyTokens(6, 511)));
  ASSERT_TRUE(made.status.ok()) << made.status.error_message();
  EXPECT_EQ(made.response.piece_keys_size(), 32);
  ExpectRefused(ChunkRequest(TinyTokens(6, 512)), grpc::INVALID_ARGUMENT,
                "segment has 512 tokens, but a chunk may have 511");
  ExpectRefused(ChunkRequest({}), grpc::INVALID_ARGUMENT, "segment is empty");
  ExpectRefused(ChunkRequest({96}), grpc::INVALID_ARGUMENT, "token id 96");
}

TEST_F(PrefillChunkTest, WorkersThatCannotSaySo) {
  served_.blend_enabled = false;
  StartWorker(8);
  ExpectRefused(ChunkRequest(a_), grpc::FAILED_PRECONDITION, "blending is off");
  served_ = {"tiny", "fingerprint", true, /*has_cache=*/false};
  StartWorker(8);
  ExpectRefused(ChunkRequest(a_), grpc::FAILED_PRECONDITION, "no cache");
  served_.has_cache = true;
  BlendConfig config = TinyWorker::SmallPieces();
  config.sink = SinkKind::kLead;
  StopWorker();
  worker_ = std::make_unique<TinyWorker>(client_.get(), config);
  StartWorker(8);
  ExpectRefused(ChunkRequest(a_), grpc::FAILED_PRECONDITION, "sink is `lead`");
}

TEST_F(PrefillChunkTest, WithoutASinkAPromptFindsItToo) {
  BlendConfig config = TinyWorker::SmallPieces();
  config.sink = SinkKind::kNone;
  StopWorker();
  worker_ = std::make_unique<TinyWorker>(client_.get(), config);
  StartWorker(8);
  ASSERT_TRUE(Prefill(ChunkRequest(b_)).status.ok());
  EXPECT_EQ(Generate(Request({lead_, a_, b_, suffix_})).started.segments(2).source(),
            SegmentReport::CACHE);
}

TEST_F(PrefillChunkTest, MoreThanTheWriterMayHoldIsRefusedBeforeItIsComputed) {
  most_bytes_ = 1000;
  StartWorker(8);
  ExpectRefused(ChunkRequest(a_), grpc::RESOURCE_EXHAUSTED, "try again later");
  EXPECT_EQ(entries(), 0u);
}

TEST_F(PrefillChunkTest, ManySideBySideWhileQuestionsAreAnswered) {
  std::vector<std::thread> threads;
  std::atomic<int> made = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 8; ++i) {
        made += Prefill(ChunkRequest(TinyTokens(100 + t * 8 + i, 40))).response.tokens() == 40;
      }
    });
  }
  const Answer first = Generate(Request({lead_, a_, suffix_}, 20));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Generate(Request({lead_, a_, suffix_}, 20)).ids, first.ids);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(made, 32);
  EXPECT_TRUE(control_->WaitForNoPins(absl::Seconds(30)));
}

TEST_F(PrefillChunkTest, CancellingFreesTheDeviceAndEveryLease) {
  Prefill(ChunkRequest(a_));
  ASSERT_TRUE(store_->Erase(PieceOf(a_, 3)));
  control_->CloseGate();  // the pieces before it are found, and do not come
  grpc::ClientContext context;
  PrefillChunkResponse response;
  grpc::Status status;
  std::thread caller([&] { status = stub_->PrefillChunk(&context, ChunkRequest(a_), &response); });
  control_->WaitForArrivals(1);
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::CANCELLED);
  EXPECT_TRUE(Generate(Request({suffix_})).status.ok()) << "the device does not wait for the cache";
  control_->OpenGate();
  EXPECT_TRUE(control_->WaitForNoPins(absl::Seconds(30)));
  EXPECT_FALSE(store_->Find(PieceOf(a_, 3)).has_value());
  EXPECT_EQ(Prefill(ChunkRequest(a_)).response.cached_tokens(), 48u);
}

TEST_F(PrefillChunkTest, CancellingAStoreThatHangsEndsTheCallAtOnce) {
  control_->CloseGate();  // nothing is committed
  grpc::ClientContext context;
  PrefillChunkResponse response;
  grpc::Status status;
  std::thread caller([&] { status = stub_->PrefillChunk(&context, ChunkRequest(a_), &response); });
  control_->WaitForArrivals(1);
  EXPECT_TRUE(Generate(Request({suffix_})).status.ok()) << "the device does not wait for a store";
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::CANCELLED);
  control_->OpenGate();
  WaitForStores();
  EXPECT_EQ(Prefill(ChunkRequest(a_)).response.cached_tokens(), a_.size()) << "it went on";
}

// A prompt that is prefilled in full because its chunks are missing is not so for ever.
TEST_F(PrefillChunkTest, ChunksThatWouldHaveBeenFasterAreComputedAfterTheAnswer) {
  CostModel costs({.row = 1, .layers = 3, .kv_width = 64});
  worker_->blender->set_costs(&costs);
  StartWorker(8);
  GenerateRequest request = Request({lead_, a_, b_, suffix_});
  request.mutable_blend()->set_recompute_ratio(0.5);
  EXPECT_EQ(Generate(request).started.policy(), "exact");
  // They are computed behind the answer, and this after them.
  ASSERT_TRUE(Prefill(ChunkRequest(c_)).status.ok());
  WaitForStores();
  // In another order, or its exact prefix would be faster still.
  GenerateRequest reordered = Request({lead_, b_, a_, suffix_});
  reordered.mutable_blend()->set_recompute_ratio(0.5);
  const Answer warm = Generate(reordered);
  EXPECT_EQ(warm.started.policy(), "query_v");
  EXPECT_EQ(warm.started.segments(1).source(), SegmentReport::CACHE);
  EXPECT_EQ(warm.started.segments(2).source(), SegmentReport::CACHE);
  StopWorker();
  worker_->blender->set_costs(nullptr);
}

TEST_F(PrefillChunkTest, ARequestThatStoresNothingLeavesNothing) {
  CostModel costs({.row = 1, .layers = 3, .kv_width = 64});
  worker_->blender->set_costs(&costs);
  StartWorker(8);
  GenerateRequest request = Request({lead_, a_, b_, suffix_});
  request.mutable_blend()->set_recompute_ratio(0.5);
  request.mutable_blend()->set_store(false);
  EXPECT_EQ(Generate(request).started.policy(), "exact");
  const ChunkAnswer after = Prefill(ChunkRequest(b_));
  EXPECT_EQ(after.response.cached_tokens(), 0u);
  StopWorker();
  worker_->blender->set_costs(nullptr);
}

}  // namespace
}  // namespace tessera
