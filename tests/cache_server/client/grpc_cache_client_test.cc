#include "cache_server/client/grpc_cache_client.h"

#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/server_fixture.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 5, .slice_bytes = 192 << 10};
constexpr absl::Duration kLong = absl::Seconds(30);

std::unique_ptr<CacheClient> MakeClient(const std::string& address) {
  auto client = MakeCacheClient({.address = address, .shared_memory = false});
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

class GrpcCacheClientTest : public ServerFixture {
 protected:
  void SetUp() override {
    StartServer();
    client_ = MakeClient(address());
  }

  // Whether a small piece can be fetched, trying for a while: for a server that comes back.
  bool FetchesWithin(absl::Duration patience, uint32_t number) {
    const absl::Time deadline = absl::Now() + patience;
    while (absl::Now() < deadline) {
      PieceMemory memory(number, 1, kShape);
      const auto stream = client_->Fetch(memory.Targets(), {.timeout = absl::Seconds(2)});
      if (stream->WaitForSlice(0, kShape.layers - 1) && memory.Holds(0)) return true;
      absl::SleepFor(absl::Milliseconds(50));
    }
    return false;
  }

  std::unique_ptr<CacheClient> client_;
};

TEST_F(GrpcCacheClientTest, RoundTripOfManyPieces) {
  PieceMemory stored(0, 40, kShape);
  EXPECT_EQ(client_->Store(stored.Sources(), kLong), 40u);
  PieceMemory fetched(0, 40, kShape);
  const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
  EXPECT_EQ(stream->WaitForHeader(), std::vector<std::string>(40, "ram"));
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    for (size_t i = 0; i < 40; ++i) ASSERT_TRUE(stream->WaitForSlice(i, layer));
  }
  for (uint32_t i = 0; i < 40; ++i) EXPECT_TRUE(fetched.Holds(i)) << i;
  const ClientCounters counters = client_->counters();
  EXPECT_EQ(counters.fetched_bytes, 40 * kShape.bytes());
  EXPECT_EQ(counters.stored_bytes, 40 * kShape.bytes());
  EXPECT_EQ(counters.failed_fetches + counters.failed_stores + counters.skipped_calls, 0u);
}

TEST_F(GrpcCacheClientTest, OverAUnixSocket) {
  server_->Stop(absl::ZeroDuration());
  options_.listen = absl::StrCat("unix:/tmp/tessera_client_test_", getpid());
  StartServer();
  client_ = MakeClient(options_.listen);
  PieceMemory stored(0, 3, kShape);
  EXPECT_EQ(client_->Store(stored.Sources(), kLong), 3u);
  EXPECT_TRUE(FetchesWithin(kLong, 2));
}

TEST_F(GrpcCacheClientTest, SlicesLargerThanAMessage) {
  const PieceShape shape = {.layers = 2, .slice_bytes = (5 << 20) / 2 + 1};
  PieceMemory stored(0, 2, shape);
  EXPECT_EQ(client_->Store(stored.Sources(), kLong), 2u);
  PieceMemory fetched(0, 2, shape);
  const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
  for (size_t i = 0; i < 2; ++i) ASSERT_TRUE(stream->WaitForSlice(i, 1));
  EXPECT_TRUE(fetched.Holds(0) && fetched.Holds(1));
}

TEST_F(GrpcCacheClientTest, MissesAreNoFailures) {
  PieceMemory stored(1, 1, kShape);
  EXPECT_EQ(client_->Store(stored.Sources(), kLong), 1u);
  PieceMemory fetched(0, 3, kShape);
  const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
  EXPECT_EQ(stream->WaitForHeader(), (std::vector<std::string>{"", "ram", ""}));
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
  EXPECT_TRUE(stream->WaitForSlice(1, kShape.layers - 1));
  EXPECT_TRUE(fetched.Holds(1));
  EXPECT_EQ(client_->counters().failed_fetches, 0u);
}

TEST_F(GrpcCacheClientTest, StoredAgainIsNotSentAgain) {
  PieceMemory memory(0, 4, kShape);
  EXPECT_EQ(client_->Store(memory.Sources(), kLong), 4u);
  EXPECT_EQ(client_->Store(memory.Sources(), kLong), 0u);
  EXPECT_EQ(client_->counters().stored_bytes, 4 * kShape.bytes());
  EXPECT_EQ(client_->counters().failed_stores, 0u);
}

TEST_F(GrpcCacheClientTest, OtherSizesAreAMiss) {
  PieceMemory stored(0, 2, kShape);
  EXPECT_EQ(client_->Store(stored.Sources(), kLong), 2u);
  for (const PieceShape shape : {PieceShape{kShape.layers + 1, kShape.slice_bytes},
                                 PieceShape{kShape.layers, kShape.slice_bytes - 1}}) {
    PieceMemory fetched(0, 2, shape);
    const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
    EXPECT_EQ(stream->WaitForHeader(), (std::vector<std::string>{"", ""}));
    EXPECT_FALSE(stream->WaitForSlice(1, 0));
  }
}

TEST_F(GrpcCacheClientTest, DamagedInTheTierIsFoundByTheClient) {
  ASSERT_TRUE(PutTestPiece(store_.get(), 0, kShape).ok());
  auto room = store_->Allocate(TestKey(1), kShape, Tenant());
  FillTestPiece(1, &*room);
  room->slice(2)[77] ^= std::byte{1};
  ASSERT_TRUE(store_->Commit(*std::move(room)).ok());
  PieceMemory fetched(0, 2, kShape);
  const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
  EXPECT_TRUE(stream->WaitForSlice(1, 1));
  EXPECT_FALSE(stream->WaitForSlice(1, 2));
  EXPECT_FALSE(stream->WaitForSlice(1, 4));
  EXPECT_TRUE(stream->WaitForSlice(0, 4));
  EXPECT_EQ(client_->counters().checksum_failures, 1u);
  EXPECT_EQ(client_->counters().failed_fetches, 0u);
}

TEST_F(GrpcCacheClientTest, MoreKeysThanTheServerTakesInOneCall) {
  server_->Stop(absl::ZeroDuration());
  options_.max_keys_per_call = 256;
  StartServer();
  const PieceShape small = {.layers = 2, .slice_bytes = 512};
  PieceMemory stored(0, 700, small);
  EXPECT_EQ(client_->Store(stored.Sources(), kLong), 700u);
  PieceMemory fetched(0, 700, small);
  const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
  EXPECT_EQ(stream->WaitForHeader(), std::vector<std::string>(700, "ram"));
  for (uint32_t i = 0; i < 700; ++i) {
    ASSERT_TRUE(stream->WaitForSlice(i, 1));
    EXPECT_TRUE(fetched.Holds(i));
  }
}

TEST_F(GrpcCacheClientTest, DroppingAStreamFreesItsPins) {
  for (uint32_t number = 0; number < 20; ++number) {
    ASSERT_TRUE(PutTestPiece(store_.get(), number, {4, 4 << 20}).ok());
  }
  PieceMemory fetched(0, 20, {4, 4 << 20});
  {
    const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
    ASSERT_TRUE(stream->WaitForSlice(0, 0));
  }
  EXPECT_TRUE(control_->WaitForNoPins(kLong));
  EXPECT_EQ(client_->counters().failed_fetches, 0u) << "leaving says nothing about the server";
}

TEST_F(GrpcCacheClientTest, ManyStreamsSideBySide) {
  PieceMemory stored(0, 16, kShape);
  EXPECT_EQ(client_->Store(stored.Sources(), kLong), 16u);
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] {
      PieceMemory fetched(0, 16, kShape);
      const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
      for (uint32_t piece = 0; piece < 16; ++piece) {
        if (stream->WaitForSlice(piece, kShape.layers - 1) && fetched.Holds(piece)) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 6 * 16);
  EXPECT_TRUE(control_->WaitForNoPins(kLong));
}

TEST_F(GrpcCacheClientTest, DeadlineOfAFetch) {
  ASSERT_TRUE(PutTestPiece(store_.get(), 0, kShape).ok());
  control_->CloseGate();
  PieceMemory fetched(0, 1, kShape);
  const absl::Time start = absl::Now();
  {
    const auto stream = client_->Fetch(fetched.Targets(), {.timeout = absl::Milliseconds(200)});
    EXPECT_EQ(stream->WaitForHeader(), std::vector<std::string>{""});
    EXPECT_FALSE(stream->WaitForSlice(0, 0));
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  control_->OpenGate();
  EXPECT_EQ(client_->counters().failed_fetches, 1u);
  EXPECT_TRUE(control_->WaitForNoPins(kLong));
}

TEST_F(GrpcCacheClientTest, HeaderWaitIsBounded) {
  auto client =
      MakeGrpcCacheClient({.address = address()}, {.header_timeout = absl::Milliseconds(200)});
  ASSERT_TRUE(client.ok()) << client.status();
  client_ = *std::move(client);
  ASSERT_TRUE(PutTestPiece(store_.get(), 0, kShape).ok());
  control_->CloseGate();
  PieceMemory fetched(0, 1, kShape);
  const absl::Time start = absl::Now();
  const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  control_->OpenGate();
}

TEST_F(GrpcCacheClientTest, StoppedServerFailsFastAndIsFoundAgain) {
  ASSERT_TRUE(PutTestPiece(store_.get(), 7, kShape).ok());
  EXPECT_TRUE(FetchesWithin(kLong, 7));
  server_->Stop(absl::ZeroDuration());
  const absl::Time start = absl::Now();
  for (int i = 0; i < 5; ++i) {
    PieceMemory fetched(7, 1, kShape);
    const auto stream = client_->Fetch(fetched.Targets(), {.timeout = kLong});
    EXPECT_FALSE(stream->WaitForSlice(0, 0));
  }
  PieceMemory stored(8, 1, kShape);
  EXPECT_EQ(client_->Store(stored.Sources(), kLong), 0u);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_GE(client_->counters().failed_fetches, 3u);
  EXPECT_GE(client_->counters().skipped_calls, 1u);
  StartServer();
  EXPECT_TRUE(FetchesWithin(kLong, 7));
}

TEST_F(GrpcCacheClientTest, StoreFailuresAreCounted) {
  PieceMemory stored(0, 1, {2, 100});
  std::vector<StoreSource> sources = stored.Sources();
  server_->Stop(absl::ZeroDuration());
  EXPECT_EQ(client_->Store(sources, absl::Seconds(2)), 0u);
  EXPECT_EQ(client_->counters().failed_stores, 1u);
}

TEST_F(GrpcCacheClientTest, EmptyCalls) {
  EXPECT_EQ(client_->Store({}, kLong), 0u);
  EXPECT_TRUE(client_->Fetch({}, {.timeout = kLong})->WaitForHeader().empty());
}

TEST(NullCacheClientTest, EverythingMisses) {
  const auto client = MakeNullCacheClient();
  PieceMemory memory(0, 2, kShape);
  const auto stream = client->Fetch(memory.Targets(), {.timeout = kLong});
  EXPECT_EQ(stream->WaitForHeader(), (std::vector<std::string>{"", ""}));
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
  EXPECT_EQ(client->Store(memory.Sources(), kLong), 0u);
}

TEST(CacheAddressTest, WhatCannotBeReadIsNamed) {
  const auto error = [](const CacheAddress& address) {
    return std::string(MakeCacheClient(address).status().message());
  };
  EXPECT_THAT(error({.address = "localhost:1", .ca_file = "/nowhere/ca.pem"}),
              ::testing::HasSubstr("/nowhere/ca.pem"));
  EXPECT_THAT(error({.address = "localhost:1", .token_file = "/nowhere/token"}),
              ::testing::HasSubstr("/nowhere/token"));
  EXPECT_NE(error({.address = "localhost:1", .cert_file = "/nowhere/cert.pem"}), "");
  EXPECT_NE(error({}), "");
}

TEST_F(GrpcCacheClientTest, TheTenantTravels) {
  PieceMemory memory(0, 2, kShape);
  std::vector<StoreSource> sources = memory.Sources();
  sources[1].tenant = MakeTenant("salt");
  EXPECT_EQ(client_->Store(sources, kLong), 2u);
  for (const TierEntry& entry : store_->tiers()[0]->List()) {
    EXPECT_EQ(entry.tenant, entry.key == TestKey(1) ? MakeTenant("salt") : Tenant());
  }
}

TEST(NoServerTest, FailsFast) {
  const auto client = MakeClient("127.0.0.1:1");
  const absl::Time start = absl::Now();
  for (int i = 0; i < 10; ++i) {
    PieceMemory memory(0, 1, kShape);
    EXPECT_FALSE(client->Fetch(memory.Targets(), {.timeout = kLong})->WaitForSlice(0, 0));
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_GE(client->counters().skipped_calls, 7u);
}

}  // namespace
}  // namespace tessera::testing
