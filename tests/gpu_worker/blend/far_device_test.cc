// Blends on a device with memory of its own, over a real cache server: the bytes go there from
// where the client has them, and count only if the lease was held.
#include "tests/gpu_worker/far_device.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/cancel_flag.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/device_read_memory.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/forwarding_client.h"
#include "tests/cache_server/testing/shared_server.h"
#include "tests/gpu_worker/blend/tiny_blend.h"

namespace tessera {
namespace {

constexpr absl::Duration kLong = absl::Seconds(30);
constexpr int kLayers = 3;
constexpr int kSlices = (1 + 4 + 3) * kLayers;  // of lead_, a_, and b_

// Does something when a slice is taken: by then it was verified, and is not copied yet.
class MeddlingClient final : public ForwardingClient {
 public:
  using ForwardingClient::ForwardingClient;

  // When so many more slices were taken, of all fetches.
  void MeddleAfter(int slices, std::function<void()> meddle) {
    slices_ = slices;
    meddle_ = std::move(meddle);
  }
  bool has_meddled() const { return meddle_ == nullptr; }

  std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                     const FetchOptions& options) override {
    return std::make_unique<Stream>(this, ForwardingClient::Fetch(std::move(targets), options));
  }

 private:
  class Stream final : public ForwardingStream {
   public:
    Stream(MeddlingClient* client, std::unique_ptr<FetchStream> real)
        : ForwardingStream(std::move(real)), client_(*client) {}
    absl::Span<const std::byte> Slices(size_t target, uint32_t first_layer,
                                       uint32_t layers) override {
      const absl::Span<const std::byte> slice =
          ForwardingStream::Slices(target, first_layer, layers);
      if (client_.meddle_ != nullptr && --client_.slices_ == 0) {
        std::exchange(client_.meddle_, nullptr)();
      }
      return slice;
    }

   private:
    MeddlingClient& client_;
  };

  int slices_ = 0;
  std::function<void()> meddle_;
};

class FarDeviceTest : public ::testing::Test {
 protected:
  void Start(bool shared_memory) {
    server_.Start();
    auto client = MakeCacheClient({.address = server_.address(), .shared_memory = shared_memory},
                                  &read_memory_);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    meddling_ = std::make_unique<MeddlingClient>(client_.get());
    far_ = std::make_unique<TinyWorker>(meddling_.get(), TinyWorker::SmallPieces(), &pool_,
                                        std::make_unique<FarOps>(&memory_));
    near_ = std::make_unique<TinyWorker>(no_cache_.get());
    // Until it is known whether there is shared memory, which a Store waits for.
    testing::PieceMemory probe(1u << 30, 1, {.layers = 1, .slice_bytes = 8});
    EXPECT_EQ(client_->Store(probe.Sources(), kLong), 1u);
  }

  // Another worker puts the prompt's chunks there.
  void Store(const BlendRequest& request) {
    TinyWorker writer(client_.get());
    writer.Run(request);
  }

  BlendRequest Request(const std::string& policy = "query_v") const {
    BlendRequest request = TinyRequest({lead_, a_, b_, suffix_}, policy, 0.5);
    request.correction = true;
    return request;
  }

  void ExpectRight(const Prefilled& done, const BlendRequest& request) {
    const Prefilled wanted = near_->Run(request);
    EXPECT_EQ(done.logits, wanted.logits);
    EXPECT_EQ(done.picked, wanted.picked);
  }

  static int64_t Cached(const Prefilled& done) {
    int64_t tokens = 0;
    for (const SegmentOutcome& segment : done.segments) tokens += segment.cached_tokens;
    return tokens;
  }

  // What is resident is what a prefill of the segment alone gives.
  void ExpectResident(const std::vector<uint32_t>& tokens) {
    const ChunkKey key = MakeChunkKey(far_->fingerprint, "", sink_, tokens);
    const std::shared_ptr<const RawChunk> chunk = pool_.Find(key);
    ASSERT_NE(chunk, nullptr);
    RawChunk alone(near_->decoder->config(), static_cast<int64_t>(tokens.size()), 16);
    ChunkPrefill prefill(near_->decoder.get());
    ASSERT_TRUE(prefill.Run(sink_, tokens, 0, near_->never.value(), alone).ok());
    for (int64_t piece = 0; piece < alone.pieces(); ++piece) {
      for (int64_t layer = 0; layer < kLayers; ++layer) {
        EXPECT_EQ(std::memcmp(chunk->Slice(piece, layer).k, alone.Slice(piece, layer).k,
                              alone.SliceBytes(piece)),
                  0)
            << piece << " " << layer;
      }
    }
  }

  const std::vector<uint32_t> sink_ = {1}, lead_ = TinyTokens(1, 12), a_ = TinyTokens(2, 50),
                              b_ = TinyTokens(3, 33), suffix_ = TinyTokens(5, 9);
  testing::SharedServer server_{uint64_t{16} << 20};
  FarMemory memory_;
  DeviceReadMemory read_memory_{&memory_};
  std::unique_ptr<CacheClient> client_, no_cache_ = MakeNullCacheClient();
  std::unique_ptr<MeddlingClient> meddling_;
  ChunkPool pool_{1 << 20};
  std::unique_ptr<TinyWorker> far_, near_;
};

class BothWays : public FarDeviceTest, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override { Start(GetParam()); }
};

TEST_P(BothWays, AnswersAreThoseOfTheHost) {
  int salt = 0;
  for (const char* policy : {"query_v", "hkvd_v", "none"}) {
    BlendRequest request = Request(policy);
    request.salt = std::to_string(salt++);
    const Prefilled computed = far_->Run(request);  // and stores
    ExpectRight(computed, request);
    EXPECT_EQ(Cached(computed), 0);
    EXPECT_EQ(Cached(far_->Run(request)), 12 + 50 + 33) << "resident";

    request.salt = std::to_string(salt++);
    Store(request);
    const int copies = memory_.copies();
    const Prefilled fetched = far_->Run(request);
    ExpectRight(fetched, request);
    EXPECT_EQ(Cached(fetched), 12 + 50 + 33);
    EXPECT_EQ(fetched.segments[1].tier(), "ram");
    EXPECT_EQ(memory_.copies() - copies, kSlices) << "one for each slice";
    EXPECT_TRUE(fetched.fresh.empty());
    EXPECT_EQ(far_->Run(request).segments[1].tier(), kWorkerTier);
  }
  EXPECT_EQ(memory_.slow_copies(), 0);
  EXPECT_EQ(memory_.registrations(), GetParam() ? 1 : 0);
  const ClientCounters counters = client_->counters();
  EXPECT_EQ(counters.shm_bytes, GetParam() ? counters.fetched_bytes : 0);
}

TEST_P(BothWays, WhatWasFetchedIsResidentAndTakesNoOtherMemory) {
  Store(Request());
  const size_t blocks = memory_.host_blocks();
  far_->Run(Request());
  ExpectResident(a_);
  ExpectResident(b_);
  EXPECT_EQ(memory_.host_blocks(), blocks) << "of the program's";
}

TEST_P(BothWays, APartIsCompleted) {
  const BlendRequest request = Request();
  Store(request);
  const ChunkKey key = MakeChunkKey(far_->fingerprint, "", sink_, a_);
  ASSERT_TRUE(server_.store().Erase(PieceKeyOf(key, 16, 2)));
  const Prefilled done = far_->Run(request);
  ExpectRight(done, request);
  EXPECT_EQ(done.segments[1].cached_tokens, 32);
  ASSERT_EQ(done.fresh.size(), 1u);
  ExpectResident(a_);
  EXPECT_TRUE(server_.store().Find(PieceKeyOf(key, 16, 2)).has_value()) << "stored from the device";
  pool_.Find(key);
  TinyWorker other(client_.get());
  EXPECT_EQ(Cached(other.Run(request)), 12 + 50 + 33);
}

TEST_P(BothWays, PrefixesAreBroughtToo) {
  BlendRequest request = Request();
  request.exact = request.prefixes = true;
  ExpectRight(far_->Run(request), request);
  const int copies = memory_.copies();
  const Prefilled again = far_->Run(request);
  ExpectRight(again, request);
  EXPECT_EQ(Cached(again), 96);
  EXPECT_EQ(memory_.copies() - copies, 6) << "a block's layers come in one";
  EXPECT_EQ(memory_.slow_copies(), 0);
}

TEST_P(BothWays, CancelledInTheMiddle) {
  const BlendRequest request = Request();
  Store(request);
  for (const int slices : {1, 5, 11, kSlices}) {
    CancelFlag cancelled;
    meddling_->MeddleAfter(slices, [&cancelled] { cancelled.Set(); });
    const auto done = far_->blender->Prefill(request, cancelled);
    EXPECT_EQ(done.status().code(), absl::StatusCode::kCancelled) << slices;
    EXPECT_TRUE(meddling_->has_meddled());
  }
  EXPECT_EQ(pool_.stats().resident_chunks, 0);
  EXPECT_TRUE(server_.control->WaitForNoPins(kLong));
  ExpectRight(far_->Run(request), request);
}

INSTANTIATE_TEST_SUITE_P(Far, BothWays, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Shm" : "Grpc"; });

class LostLeaseTest : public FarDeviceTest, public ::testing::WithParamInterface<int> {
 protected:
  void SetUp() override {
    Start(/*shared_memory=*/true);
    Store(Request());
  }

  // The server lets go of what is being read, and puts something else there.
  void LoseLeaseAfter(int slices) {
    meddling_->MeddleAfter(slices, [this] {
      server_.StopShm();
      std::memset(server_.memory().mutable_data(), 0x3f, server_.memory().size());
    });
  }
};

TEST_P(LostLeaseTest, IsAMissWithTheRightAnswer) {
  LoseLeaseAfter(GetParam());
  const Prefilled done = far_->Run(Request());
  EXPECT_TRUE(meddling_->has_meddled());
  ExpectRight(done, Request());
  EXPECT_EQ(Cached(done), 0);
  EXPECT_EQ(client_->counters().lost_leases, 1u);
  EXPECT_EQ(pool_.stats().resident_chunks, 3) << "computed";
  ExpectResident(a_);
  ExpectResident(b_);
}

TEST_P(LostLeaseTest, APrefixIsAMissToo) {
  BlendRequest request = Request();
  request.exact = request.prefixes = true;
  Store(request);
  LoseLeaseAfter(std::min(GetParam(), 6));
  const Prefilled done = far_->Run(request);
  EXPECT_TRUE(meddling_->has_meddled());
  ExpectRight(done, request);
  EXPECT_EQ(Cached(done), 0);
}

TEST_P(LostLeaseTest, AllWhoReadAreTold) {
  LoseLeaseAfter(std::min(GetParam(), 4 * kLayers));
  ChunkPrefill prefill(far_->decoder.get());
  const WantedChunk want = {MakeChunkKey(far_->fingerprint, "", sink_, a_), sink_, a_};
  std::vector<std::unique_ptr<KvLoader>> loaders;
  for (int i = 0; i < 2; ++i) {
    loaders.push_back(std::make_unique<KvLoader>(far_->decoder.get(), meddling_.get(), &prefill,
                                                 &pool_, 16, &far_->never));
    loaders.back()->Begin({want}, kLong);
  }
  for (const auto& loader : loaders) ASSERT_TRUE(loader->WaitForLayer(kLayers - 1).ok());
  EXPECT_EQ(pool_.stats().resident_chunks, 0) << "it was not confirmed";
  for (const auto& loader : loaders) EXPECT_FALSE(loader->Confirm());
  for (const auto& loader : loaders) {
    ASSERT_TRUE(loader->WaitForLayer(kLayers - 1).ok());
    EXPECT_TRUE(loader->Confirm());
    EXPECT_EQ(loader->cached_tokens(0), 0);
  }
  EXPECT_EQ(loaders[1]->TakeFresh().size(), 1u);
  ExpectResident(a_);
}

INSTANTIATE_TEST_SUITE_P(After, LostLeaseTest, ::testing::Values(1, 7, 13, kSlices));

}  // namespace
}  // namespace tessera
