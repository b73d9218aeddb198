// What a worker tells of the chunks in its memory.
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/chunk_hash.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/serve/worker_fixture.h"

namespace tessera {
namespace {

using Hashes = std::set<uint64_t>;

// A client that watches, until its end.
class Watcher {
 public:
  explicit Watcher(worker::v1::Worker::Stub* stub) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    reader_ = stub->WatchChunks(&context_, {});
  }
  ~Watcher() {
    context_.TryCancel();
    (void)reader_->Finish();
  }

  // Reads until just these are known; false when the call ends before.
  bool ReadUntil(const Hashes& wanted) {
    while (!told_ || known_ != wanted) {
      worker::v1::ChunkChanges changes;
      if (!reader_->Read(&changes)) return false;
      if (changes.restart()) known_.clear();
      known_.insert(changes.added().begin(), changes.added().end());
      for (const uint64_t gone : changes.removed()) known_.erase(gone);
      told_ = true;
    }
    return true;
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<worker::v1::ChunkChanges>> reader_;
  Hashes known_;
  bool told_ = false;
};

class WatchChunksTest : public WorkerFixture {
 protected:
  // 384 bytes a token: lead_, a_ and b_ fit, and then c_ instead of the least recently used.
  void SetUp() override {
    WorkerFixture::SetUp();
    StopWorker();
    pool_ = std::make_unique<ChunkPool>(40'000);
    worker_ = std::make_unique<TinyWorker>(client_.get(), TinyWorker::SmallPieces(), pool_.get());
    StartWorker(/*queue=*/8);
  }

  Hashes Of(const std::vector<const std::vector<uint32_t>*>& segments) {
    Hashes hashes;
    for (const std::vector<uint32_t>* tokens : segments) hashes.insert(ChunkHash("", *tokens));
    return hashes;
  }
};

TEST_F(WatchChunksTest, TellsAllAndThenEveryChange) {
  Watcher first(stub_.get());
  EXPECT_TRUE(first.ReadUntil({}));
  ASSERT_TRUE(Generate(Request({lead_, a_, b_, suffix_})).status.ok());
  EXPECT_TRUE(first.ReadUntil(Of({&lead_, &a_, &b_})));
  Watcher second(stub_.get());
  EXPECT_TRUE(second.ReadUntil(Of({&lead_, &a_, &b_})));
  ASSERT_TRUE(Generate(Request({lead_, c_, suffix_})).status.ok());
  EXPECT_TRUE(first.ReadUntil(Of({&lead_, &b_, &c_})));
  EXPECT_TRUE(second.ReadUntil(Of({&lead_, &b_, &c_})));
}

TEST_F(WatchChunksTest, WhatStaysIsReportedAsTheWorkers) {
  const Answer cold = Generate(Request({lead_, a_, suffix_}));
  const Answer warm = Generate(Request({lead_, a_, suffix_}));
  EXPECT_EQ(warm.ids, cold.ids);
  EXPECT_EQ(cold.started.segments(1).source(), worker::v1::SegmentReport::COMPUTED);
  EXPECT_EQ(warm.started.segments(1).source(), worker::v1::SegmentReport::CACHE);
  EXPECT_EQ(warm.started.segments(1).tier(), "worker");
  EXPECT_EQ(warm.started.usage().exact_tokens(), lead_.size());
  EXPECT_EQ(warm.started.usage().computed_tokens(), suffix_.size());
}

TEST_F(WatchChunksTest, WhatMayNotBeStoredDoesNotStay) {
  GenerateRequest request = Request({lead_, a_, suffix_});
  request.mutable_blend()->set_store(false);
  ASSERT_TRUE(Generate(request).status.ok());
  EXPECT_EQ(pool_->stats().resident_chunks, 0);
}

TEST_F(WatchChunksTest, AWatchEndsWithTheServer) {
  Watcher watcher(stub_.get());
  EXPECT_TRUE(watcher.ReadUntil({}));
  StopWorker();
  EXPECT_FALSE(watcher.ReadUntil({1}));
}

TEST_F(WatchChunksTest, TooManyWatchesAreRefused) {
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (size_t i = 0; i < ResidentChunks::kMostWatches; ++i) {
    ASSERT_TRUE(watchers.emplace_back(std::make_unique<Watcher>(stub_.get()))->ReadUntil({}));
  }
  grpc::ClientContext context;
  const auto reader = stub_->WatchChunks(&context, {});
  worker::v1::ChunkChanges changes;
  EXPECT_FALSE(reader->Read(&changes));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  // Those that leave make room.
  watchers.clear();
  bool told = false;
  for (const absl::Time end = absl::Now() + absl::Seconds(20); !told && absl::Now() < end;) {
    told = Watcher(stub_.get()).ReadUntil({});
  }
  EXPECT_TRUE(told);
}

}  // namespace
}  // namespace tessera
