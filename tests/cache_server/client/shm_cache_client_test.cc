// What is special about shared memory: leases, and the way back to gRPC.
#include "cache_server/client/shm_cache_client.h"

#include <atomic>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "cache_server/client/cache_client.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/server_fixture.h"
#include "tests/cache_server/testing/shared_server.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 4, .slice_bytes = 64 << 10};
constexpr absl::Duration kLong = absl::Seconds(30);
constexpr uint32_t kProbe = 1u << 30;

class ShmCacheClientTest : public ::testing::Test {
 protected:
  // Starts the server, and a client that has asked for shared memory once.
  void Start(const std::string& token_file = "", ReadMemory* read_memory = nullptr) {
    server_.Start();
    auto client =
        MakeCacheClient({.address = server_.address(), .token_file = token_file}, read_memory);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    PieceMemory probe(kProbe, 1, {.layers = 1, .slice_bytes = 8});
    ASSERT_EQ(client_->Store(probe.Sources(), kLong), 1u);
  }

  std::unique_ptr<FetchStream> FetchInPlace(uint32_t count, absl::Duration timeout = kLong) {
    std::vector<FetchTarget> targets;
    for (uint32_t i = 0; i < count; ++i) {
      targets.push_back({TestKey(i), kShape.layers, kShape.slice_bytes});
    }
    return client_->Fetch(std::move(targets), {.timeout = timeout});
  }

  bool FetchesRight(uint32_t number) {
    PieceMemory memory(number, 1, kShape);
    const auto stream = client_->Fetch(memory.Targets(), {.timeout = kLong});
    return stream->WaitForSlice(0, kShape.layers - 1) && memory.Holds(0);
  }

  SharedServer server_;
  std::unique_ptr<CacheClient> client_;
};

TEST_F(ShmCacheClientTest, AReaderThatStaysTooLongIsTold) {
  server_.shm_options.lease = absl::Milliseconds(200);
  server_.Put(0, kShape);
  Start();
  // The lease is renewed until the fetch should have ended.
  const auto stream = FetchInPlace(1, absl::Milliseconds(300));
  ASSERT_TRUE(stream->WaitForSlice(0, 0));
  EXPECT_TRUE(stream->LeaseHeld());
  EXPECT_TRUE(server_.control->WaitForNoPins(kLong)) << "the server does not wait for ever";
  EXPECT_FALSE(stream->LeaseHeld());
  EXPECT_FALSE(stream->WaitForSlice(0, 1));
  EXPECT_EQ(client_->counters().lost_leases, 1u);
  EXPECT_EQ(server_.shm().counters().expired_leases, 1u);
}

TEST_F(ShmCacheClientTest, LeasesAreRenewedWhileTheStreamLives) {
  server_.shm_options.lease = absl::Milliseconds(300);
  server_.Put(0, kShape);
  Start();
  {
    const auto stream = FetchInPlace(1);
    ASSERT_TRUE(stream->WaitForSlice(0, 0));
    absl::SleepFor(absl::Seconds(1));
    EXPECT_TRUE(stream->WaitForSlice(0, kShape.layers - 1));
    EXPECT_TRUE(stream->LeaseHeld());
  }
  EXPECT_TRUE(server_.control->WaitForNoPins(kLong));
  EXPECT_EQ(client_->counters().lost_leases, 0u);
  EXPECT_EQ(server_.shm().counters().expired_leases, 0u);
}

TEST_F(ShmCacheClientTest, WithoutAnOfferAllGoesOverGrpc) {
  server_.offers_shm = false;
  server_.Put(0, kShape);
  Start();
  EXPECT_TRUE(FetchesRight(0));
  EXPECT_EQ(client_->counters().shm_bytes, 0u);
  EXPECT_EQ(client_->counters().shm_fallbacks, 0u) << "nothing has failed";
}

TEST_F(ShmCacheClientTest, ARefusedClientFallsBack) {
  server_.shm_options.token = "secret";  // which this client does not have
  server_.Put(0, kShape);
  Start();
  EXPECT_TRUE(FetchesRight(0));
  EXPECT_EQ(client_->counters().shm_bytes, 0u);
  EXPECT_GE(client_->counters().shm_fallbacks, 1u);
  EXPECT_GE(server_.shm().counters().refused, 1u);
}

TEST_F(ShmCacheClientTest, TheTokenOpensBothFaces) {
  const std::string file = NewSocketPath() + ".token";
  std::ofstream(file) << "secret\n";
  server_.shm_options.token = "secret";
  server_.grpc_options.token = "secret";
  server_.Put(0, kShape);
  Start(file);
  EXPECT_TRUE(FetchesRight(0));
  EXPECT_EQ(client_->counters().shm_bytes, kShape.bytes());
  const auto stranger = MakeCacheClient({.address = server_.address()});
  PieceMemory memory(0, 1, kShape);
  EXPECT_FALSE((*stranger)->Fetch(memory.Targets(), {.timeout = kLong})->WaitForSlice(0, 0));
  unlink(file.c_str());
}

TEST_F(ShmCacheClientTest, AnotherServersSocketIsNotUsed) {
  SharedServer other;
  other.Start();
  server_.shm_options.path = NewSocketPath();
  server_.Put(0, kShape);
  server_.Start();
  // As if the path that the server names were another's on this machine.
  server_.StopShm();
  ASSERT_EQ(rename(other.shm_options.path.c_str(), server_.shm_options.path.c_str()), 0);
  auto client = MakeCacheClient({.address = server_.address()});
  client_ = *std::move(client);
  PieceMemory stored(5, 1, kShape);
  EXPECT_EQ(client_->Store(stored.Sources(), kLong), 1u);
  EXPECT_TRUE(FetchesRight(0));
  EXPECT_EQ(client_->counters().shm_bytes, 0u);
  EXPECT_FALSE(other.store().Find(TestKey(5)).has_value());
  unlink(server_.shm_options.path.c_str());
}

TEST_F(ShmCacheClientTest, ASessionThatBreaksIsFetchedAgainOverGrpc) {
  server_.PutBelow(0, kShape);
  server_.slow_control->CloseGate();
  Start();
  PieceMemory memory(0, 1, kShape);
  const auto stream = client_->Fetch(memory.Targets(), {.timeout = kLong});
  EXPECT_EQ(stream->WaitForHeader(), std::vector<std::string>{"ram"});
  EXPECT_EQ(client_->counters().shm_fallbacks, 0u);
  std::thread breaker([this] {
    server_.StopShm();
    server_.slow_control->OpenGate();
  });
  EXPECT_TRUE(stream->WaitForSlice(0, kShape.layers - 1));
  EXPECT_TRUE(memory.Holds(0));
  EXPECT_TRUE(stream->LeaseHeld());
  breaker.join();
  EXPECT_EQ(client_->counters().shm_fallbacks, 1u);
  EXPECT_EQ(client_->counters().shm_bytes, 0u);
}

TEST_F(ShmCacheClientTest, ABrokenSessionNeverMixesWithWhatWasHandedOut) {
  server_.Put(0, kShape);
  server_.PutBelow(1, kShape);
  server_.slow_control->CloseGate();
  Start();
  const auto stream = FetchInPlace(2);
  ASSERT_TRUE(stream->WaitForSlice(0, 0));
  server_.StopShm();
  EXPECT_FALSE(stream->WaitForSlice(1, 0)) << "a miss";
  EXPECT_FALSE(stream->LeaseHeld()) << "its server has let go of it";
  EXPECT_FALSE(stream->WaitForSlice(0, 1));
  EXPECT_EQ(client_->counters().shm_fallbacks, 0u);
  EXPECT_EQ(client_->counters().failed_fetches, 1u);
  server_.slow_control->OpenGate();
}

TEST_F(ShmCacheClientTest, TooManyKeysGoOverGrpc) {
  server_.shm_options.max_keys_per_call = 4;
  for (uint32_t number = 0; number < 5; ++number) server_.Put(number, kShape);
  Start();
  const auto five = FetchInPlace(5);
  for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(five->WaitForSlice(i, kShape.layers - 1));
  EXPECT_EQ(client_->counters().shm_bytes, 0u);
  const auto four = FetchInPlace(4);
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(four->WaitForSlice(i, kShape.layers - 1));
  EXPECT_EQ(client_->counters().shm_bytes, 4 * kShape.bytes());
  EXPECT_EQ(client_->counters().shm_fallbacks, 0u);
}

TEST_F(ShmCacheClientTest, PiecesThatAreTooLargeToStageGoOverGrpc) {
  Start();
  const PieceShape large = {.layers = 2, .slice_bytes = 33 << 20};
  PieceMemory memory(0, 1, large);
  std::vector<StoreSource> sources = memory.Sources();
  PieceMemory small(1, 1, kShape);
  sources.push_back(small.Sources()[0]);
  EXPECT_EQ(client_->Store(sources, kLong), 2u);
  EXPECT_EQ(server_.shm().counters().put_bytes, kShape.bytes() + 8);
  EXPECT_TRUE(HoldsTestPiece(server_.store().GetFast(TestKey(0))->handle, 0));
}

TEST_F(ShmCacheClientTest, MoreThanTheStagingMemoryHolds) {
  Start();
  const PieceShape shape = {.layers = 4, .slice_bytes = 1 << 20};
  PieceMemory memory(0, 40, shape);  // 160 MiB, staged in turns
  std::vector<StoreSource> sources = memory.Sources();
  for (StoreSource& source : sources) source.tenant = MakeTenant("salt");
  EXPECT_EQ(client_->Store(sources, kLong), 40u);
  for (uint32_t number = 0; number < 40; ++number) {
    EXPECT_TRUE(HoldsTestPiece(server_.store().GetFast(TestKey(number))->handle, number));
  }
  for (const TierEntry& entry : server_.store().tiers()[0]->List()) {
    if (entry.shape == shape) {
      EXPECT_EQ(entry.tenant, MakeTenant("salt"));
    }
  }
  EXPECT_EQ(server_.shm().counters().put_bytes, 40 * shape.bytes() + 8);
}

TEST_F(ShmCacheClientTest, MoreStreamsThanConnections) {
  server_.Put(0, kShape);
  Start();
  std::vector<std::unique_ptr<FetchStream>> streams;
  for (int i = 0; i < 12; ++i) streams.push_back(FetchInPlace(1));
  for (const auto& stream : streams) EXPECT_TRUE(stream->WaitForSlice(0, kShape.layers - 1));
  EXPECT_EQ(client_->counters().shm_bytes, 8 * kShape.bytes());
  EXPECT_EQ(client_->counters().fetched_bytes, 12 * kShape.bytes());
  EXPECT_EQ(client_->counters().shm_fallbacks, 0u);
  EXPECT_EQ(server_.shm().counters().sessions, 8u);
}

TEST_F(ShmCacheClientTest, ADrainingServerIsNoFailure) {
  server_.Put(0, kShape);
  Start();
  server_.shm().SetDraining(true);
  EXPECT_TRUE(FetchesRight(0)) << "over gRPC, which does not drain here";
  EXPECT_EQ(client_->counters().shm_fallbacks, 1u);
  server_.shm().SetDraining(false);
  EXPECT_TRUE(FetchesRight(0)) << "over the same connection";
  EXPECT_EQ(client_->counters().shm_bytes, kShape.bytes());
}

// A thread that waits is enough for all: each reads what comes for the others.
TEST_F(ShmCacheClientTest, ManyWaitersOfOneStream) {
  for (uint32_t number = 0; number < 8; ++number) server_.PutBelow(number, kShape);
  server_.slow_control->CloseGate();
  Start();
  const auto stream = FetchInPlace(8);
  std::vector<std::thread> waiters;
  std::atomic<int> right = 0;
  for (uint32_t i = 0; i < 8; ++i) {
    waiters.emplace_back([&, i] {
      for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
        right += stream->WaitForSlice(i, layer);
      }
    });
  }
  server_.slow_control->OpenGate();
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_EQ(right, 8 * 4);
  EXPECT_EQ(client_->counters().shm_bytes, 8 * kShape.bytes());
}

TEST_F(ShmCacheClientTest, SlicesAreVerifiedAheadOfTheReader) {
  for (uint32_t number = 0; number < 8; ++number) server_.Put(number, kShape);
  Start();
  std::vector<FetchTarget> targets;
  for (uint32_t i = 0; i < 8; ++i) {
    targets.push_back({TestKey(i), kShape.layers, kShape.slice_bytes});
  }
  absl::Notification all_verified;
  // Nobody asks for anything.
  const auto stream = client_->Fetch(
      targets, {.timeout = kLong, .on_progress = [this, &all_verified] {
                  const bool all = client_->counters().shm_bytes == 8 * kShape.bytes();
                  if (all && !all_verified.HasBeenNotified()) all_verified.Notify();
                }});
  ASSERT_TRUE(all_verified.WaitForNotificationWithTimeout(kLong));
  for (uint32_t i = 0; i < 8; ++i) {
    EXPECT_TRUE(stream->SliceReady(i, kShape.layers - 1));
    EXPECT_TRUE(stream->WaitForSlice(i, kShape.layers - 1));
  }
  EXPECT_EQ(client_->counters().shm_bytes, 8 * kShape.bytes()) << "once";
}

TEST_F(ShmCacheClientTest, AStreamMayEndWhileItIsVerified) {
  const PieceShape large = {.layers = 8, .slice_bytes = 1 << 20};
  for (uint32_t number = 0; number < 4; ++number) server_.Put(number, large);
  Start();
  for (int i = 0; i < 40; ++i) {
    PieceMemory memory(0, 4, large);
    const auto stream = client_->Fetch(memory.Targets(), {.timeout = kLong, .on_progress = [] {}});
    EXPECT_EQ(stream->WaitForHeader().size(), 4u);
    if (i % 2 == 0) stream->Cancel();
  }
  EXPECT_TRUE(server_.control->WaitForNoPins(kLong));
}

TEST_F(ShmCacheClientTest, WhatWasVerifiedButNotShownMayComeOverGrpcYet) {
  server_.Put(0, kShape);
  Start();
  PieceMemory memory(0, 1, kShape);
  const auto copied = client_->Fetch(memory.Targets(), {.timeout = kLong});
  const auto in_place = FetchInPlace(1);
  EXPECT_EQ(copied->WaitForHeader(), std::vector<std::string>{"ram"});
  EXPECT_EQ(in_place->WaitForHeader(), std::vector<std::string>{"ram"});
  while (client_->counters().shm_bytes < 2 * kShape.bytes()) absl::SleepFor(absl::Milliseconds(1));
  server_.StopShm();
  EXPECT_TRUE(in_place->WaitForSlice(0, kShape.layers - 1));
  EXPECT_TRUE(in_place->LeaseHeld());
  EXPECT_EQ(client_->counters().shm_fallbacks, 1u);
  EXPECT_TRUE(copied->WaitForSlice(0, kShape.layers - 1)) << "is the reader's own";
  EXPECT_TRUE(memory.Holds(0));
  EXPECT_EQ(client_->counters().shm_fallbacks, 1u);
}

class CountingReadMemory final : public ReadMemory {
 public:
  std::shared_ptr<std::byte> Allocate(size_t bytes) override {
    allocated_bytes += bytes;
    return {new std::byte[bytes], std::default_delete<std::byte[]>()};
  }
  void Mapped(const std::byte* begin, size_t bytes) override {
    mapped[begin] = bytes;
    ++mappings;
  }
  void Unmapped(const std::byte* begin) override { EXPECT_EQ(mapped.erase(begin), 1u); }

  std::atomic<size_t> allocated_bytes = 0;
  std::map<const std::byte*, size_t> mapped;
  int mappings = 0;
};

TEST_F(ShmCacheClientTest, WhoReadsIsToldOfTheMemory) {
  server_.Put(0, kShape);
  CountingReadMemory told;
  Start("", &told);
  EXPECT_EQ(told.mapped.size(), 1u);
  {
    const auto stream = FetchInPlace(1);
    ASSERT_TRUE(stream->WaitForSlice(0, 0));
    const absl::Span<const std::byte> slice = stream->Slice(0, 0);
    const auto& [begin, bytes] = *told.mapped.begin();
    EXPECT_GE(slice.data(), begin);
    EXPECT_LE(slice.data() + slice.size(), begin + bytes);
    EXPECT_EQ(told.allocated_bytes, 0u);
  }
  // Another server in its place; what it offers is mapped when it was found.
  server_.StopShm();
  {
    const auto stream = FetchInPlace(1);
    ASSERT_TRUE(stream->WaitForSlice(0, 0)) << "over gRPC";
    EXPECT_EQ(told.allocated_bytes, kShape.bytes());
  }
  client_ = nullptr;
  EXPECT_TRUE(told.mapped.empty());
  EXPECT_EQ(told.mappings, 1);
}

}  // namespace
}  // namespace tessera::testing
