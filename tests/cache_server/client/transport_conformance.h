// What every way to a cache server must do, as one typed suite. A transport's test instantiates it:
//
//   struct MyTransport {
//     static void Configure(SharedServer* server);     // before it starts
//     static constexpr bool kSharedMemory = ...;       // whether shared memory must carry the
//     bytes
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(MyTransport, TransportConformance, MyTransport);
#ifndef TESSERA_TESTS_CACHE_SERVER_CLIENT_TRANSPORT_CONFORMANCE_H_
#define TESSERA_TESTS_CACHE_SERVER_CLIENT_TRANSPORT_CONFORMANCE_H_

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/auto_reset_event.h"
#include "cache_server/client/cache_client.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/server_fixture.h"
#include "tests/cache_server/testing/shared_server.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {

inline constexpr PieceShape kShape = {.layers = 5, .slice_bytes = 96 << 10};
inline constexpr PieceShape kSmall = {.layers = 3, .slice_bytes = 1000};
inline constexpr absl::Duration kLong = absl::Seconds(30);
inline constexpr uint32_t kProbe = 1u << 30;  // numbers of pieces that only show the way

template <typename Transport>
class TransportConformance : public ::testing::Test {
 protected:
  TransportConformance() { Transport::Configure(&server_); }

  void SetUp() override {
    server_.Start();
    client_ = MakeClient();
  }

  // The bytes went the way that this suite is about.
  void TearDown() override {
    if (!broken_) CheckTheWay(client_->counters());
  }
  static void CheckTheWay(const ClientCounters& counters) {
    EXPECT_EQ(counters.shm_fallbacks, 0u);
    EXPECT_EQ(counters.shm_bytes, Transport::kSharedMemory ? counters.fetched_bytes : 0);
    EXPECT_EQ(counters.shm_stored_bytes, Transport::kSharedMemory ? counters.stored_bytes : 0);
  }

  // A client that knows the way: a Store waits until shared memory was found, or is not offered.
  std::unique_ptr<CacheClient> MakeClient() {
    auto client =
        MakeCacheClient({.address = server_.address(), .shared_memory = Transport::kSharedMemory});
    EXPECT_TRUE(client.ok()) << client.status();
    PieceMemory probe(kProbe + probes_++, 1, {.layers = 1, .slice_bytes = 8});
    EXPECT_EQ((*client)->Store(probe.Sources(), kLong), 1u);
    return *std::move(client);
  }

  static FetchOptions Within(absl::Duration timeout) { return {.timeout = timeout}; }

  // Without memory: to be read where they are.
  static std::vector<FetchTarget> InPlace(uint32_t first, uint32_t count, PieceShape shape) {
    std::vector<FetchTarget> targets;
    for (uint32_t i = 0; i < count; ++i) {
      targets.push_back({TestKey(first + i), shape.layers, shape.slice_bytes});
    }
    return targets;
  }
  static bool IsSlice(absl::Span<const std::byte> got, uint32_t number, PieceShape shape,
                      uint32_t layer) {
    const std::vector<std::byte> bytes = TestBytes(number, shape);
    return got.size() == shape.slice_bytes &&
           std::memcmp(got.data(), bytes.data() + layer * shape.slice_bytes, got.size()) == 0;
  }

  // What a reader does that asks instead of waiting: looks when something has come, or when the
  // stream says so.
  template <typename Ready>
  void AskUntil(FetchStream& stream, const Ready& ready) {
    while (!ready()) progress_.Await(stream.ready_by());
  }
  FetchOptions AskingWithin(absl::Duration timeout) {
    FetchOptions options = Within(timeout);
    options.on_progress = [this] { progress_.Signal(); };
    return options;
  }

  // Whether a stored piece can be fetched, trying for a while: for a server that comes back.
  bool FetchesWithin(absl::Duration patience, uint32_t number) {
    const absl::Time deadline = absl::Now() + patience;
    while (absl::Now() < deadline) {
      PieceMemory memory(number, 1, kShape);
      const auto stream = client_->Fetch(memory.Targets(), Within(absl::Seconds(2)));
      if (stream->WaitForSlice(0, kShape.layers - 1) && memory.Holds(0)) return true;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return false;
  }

  AutoResetEvent progress_;
  SharedServer server_;
  std::unique_ptr<CacheClient> client_;
  bool broken_ = false;  // this test breaks the way on purpose
  uint32_t probes_ = 0;
};

TYPED_TEST_SUITE_P(TransportConformance);

TYPED_TEST_P(TransportConformance, StoreThenFetchIntoMemory) {
  PieceMemory stored(0, 20, kShape);
  EXPECT_EQ(this->client_->Store(stored.Sources(), kLong), 20u);
  PieceMemory fetched(0, 20, kShape);
  const auto stream = this->client_->Fetch(fetched.Targets(), this->Within(kLong));
  EXPECT_EQ(stream->WaitForHeader(), std::vector<std::string>(20, "ram"));
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    for (size_t i = 0; i < 20; ++i) ASSERT_TRUE(stream->WaitForSlice(i, layer));
  }
  for (uint32_t i = 0; i < 20; ++i) EXPECT_TRUE(fetched.Holds(i)) << i;
  EXPECT_TRUE(stream->LeaseHeld());
  const ClientCounters counters = this->client_->counters();
  EXPECT_EQ(counters.fetched_bytes, 20 * kShape.bytes());
  EXPECT_EQ(counters.stored_bytes, 20 * kShape.bytes() + 8);
  EXPECT_EQ(counters.failed_fetches + counters.failed_stores + counters.lost_leases, 0u);
}

TYPED_TEST_P(TransportConformance, FetchInPlace) {
  PieceMemory stored(0, 4, kShape);
  EXPECT_EQ(this->client_->Store(stored.Sources(), kLong), 4u);
  const auto stream = this->client_->Fetch(this->InPlace(0, 4, kShape), this->Within(kLong));
  // The last layer stands for those before it.
  for (size_t i = 0; i < 4; ++i) ASSERT_TRUE(stream->WaitForSlice(i, kShape.layers - 1));
  for (uint32_t i = 0; i < 4; ++i) {
    for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
      EXPECT_TRUE(this->IsSlice(stream->Slice(i, layer), i, kShape, layer));
    }
  }
  EXPECT_TRUE(stream->LeaseHeld());
}

TYPED_TEST_P(TransportConformance, StoredAgainIsNotSentAgain) {
  PieceMemory memory(0, 4, kShape);
  std::vector<StoreSource> sources = memory.Sources();
  EXPECT_EQ(this->client_->Store(sources, kLong), 4u);
  const uint64_t bytes = this->client_->counters().stored_bytes;
  EXPECT_EQ(this->client_->Store(sources, kLong), 0u);
  EXPECT_EQ(this->client_->counters().stored_bytes, bytes);
  // The same key twice in one call is stored once.
  PieceMemory more(10, 1, kShape);
  sources = more.Sources();
  sources.push_back(sources[0]);
  EXPECT_EQ(this->client_->Store(sources, kLong), 1u);
  EXPECT_EQ(this->client_->counters().failed_stores, 0u);
}

TYPED_TEST_P(TransportConformance, MissesAreData) {
  this->server_.Put(1, kShape);
  PieceMemory fetched(0, 3, kShape);
  const auto stream = this->client_->Fetch(fetched.Targets(), this->Within(kLong));
  EXPECT_EQ(stream->WaitForHeader(), (std::vector<std::string>{"", "ram", ""}));
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
  EXPECT_TRUE(stream->WaitForSlice(1, kShape.layers - 1));
  EXPECT_FALSE(stream->WaitForSlice(2, 0));
  EXPECT_TRUE(fetched.Holds(1));
  EXPECT_EQ(this->client_->counters().failed_fetches, 0u);
  EXPECT_TRUE(this->client_->Fetch({}, this->Within(kLong))->WaitForHeader().empty());
}

TYPED_TEST_P(TransportConformance, FindMissingMovesNothing) {
  this->server_.Put(1, kSmall);
  this->server_.PutBelow(3, kSmall);
  std::vector<ChunkKey> keys;
  std::vector<bool> missing;
  for (const uint32_t number : {0, 1, 2, 3, 1, 0}) {
    keys.push_back(TestKey(number));
    missing.push_back(number % 2 == 0);
  }
  EXPECT_EQ(this->client_->FindMissing(keys, kLong), missing);
  // More keys than go in one call.
  for (uint32_t number = 1000; number < 1600; ++number) {
    keys.push_back(TestKey(number));
    missing.push_back(true);
  }
  keys.push_back(TestKey(1));
  missing.push_back(false);
  EXPECT_EQ(this->client_->FindMissing(keys, kLong), missing);
  EXPECT_TRUE(this->client_->FindMissing({}, kLong).empty());
  EXPECT_EQ(this->client_->counters().fetched_bytes, 0u);
  EXPECT_EQ(this->client_->counters().failed_fetches, 0u);
}

TYPED_TEST_P(TransportConformance, FindMissingOfAServerThatEndedIsAllMissing) {
  this->server_.Put(1, kSmall);
  const std::vector<ChunkKey> keys = {TestKey(0), TestKey(1)};
  EXPECT_EQ(this->client_->FindMissing(keys, kLong), (std::vector<bool>{true, false}));
  this->server_.Stop();
  EXPECT_EQ(this->client_->FindMissing(keys, kLong), (std::vector<bool>{true, true}));
  EXPECT_EQ(this->client_->counters().failed_fetches, 1u);
}

TYPED_TEST_P(TransportConformance, OtherSizesAreAMiss) {
  this->server_.Put(0, kShape);
  this->server_.Put(1, kShape);
  for (const PieceShape shape : {PieceShape{kShape.layers + 1, kShape.slice_bytes},
                                 PieceShape{kShape.layers, kShape.slice_bytes - 1}}) {
    PieceMemory fetched(0, 2, shape);
    const auto stream = this->client_->Fetch(fetched.Targets(), this->Within(kLong));
    EXPECT_EQ(stream->WaitForHeader(), (std::vector<std::string>{"", ""}));
    EXPECT_FALSE(stream->WaitForSlice(1, 0));
  }
}

TYPED_TEST_P(TransportConformance, ThousandKeys) {
  PieceMemory stored(0, 1000, kSmall);
  EXPECT_EQ(this->client_->Store(stored.Sources(), kLong), 1000u);
  PieceMemory fetched(0, 1000, kSmall);
  const auto stream = this->client_->Fetch(fetched.Targets(), this->Within(kLong));
  EXPECT_EQ(stream->WaitForHeader(), std::vector<std::string>(1000, "ram"));
  for (uint32_t i = 0; i < 1000; ++i) {
    ASSERT_TRUE(stream->WaitForSlice(i, kSmall.layers - 1));
    EXPECT_TRUE(fetched.Holds(i));
  }
}

TYPED_TEST_P(TransportConformance, LayersComeInOrderAndOthersDoNotWaitForThem) {
  for (uint32_t number = 0; number < 3; ++number) this->server_.Put(number, kShape);
  const auto stream = this->client_->Fetch(this->InPlace(0, 3, kShape), this->Within(kLong));
  // A layer of all pieces, while nobody has asked for later ones: what a layerwise reader does.
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    for (uint32_t i = 3; i > 0; --i) {
      ASSERT_TRUE(stream->WaitForSlice(i - 1, layer));
      EXPECT_TRUE(this->IsSlice(stream->Slice(i - 1, layer), i - 1, kShape, layer));
    }
  }
  EXPECT_FALSE(stream->WaitForSlice(0, kShape.layers)) << "there is no such layer";
}

TYPED_TEST_P(TransportConformance, StopAtFirstMiss) {
  for (const uint32_t number : {0, 1, 3, 4}) this->server_.Put(number, kSmall);
  PieceMemory fetched(0, 5, kSmall);
  FetchOptions options = this->Within(kLong);
  options.stop_at_first_miss = true;
  const auto stream = this->client_->Fetch(fetched.Targets(), options);
  EXPECT_EQ(stream->WaitForHeader(), (std::vector<std::string>{"ram", "ram", "", "", ""}));
  EXPECT_TRUE(stream->WaitForSlice(1, kSmall.layers - 1));
  EXPECT_FALSE(stream->WaitForSlice(3, 0));
}

TYPED_TEST_P(TransportConformance, LoadedFromALowerTier) {
  this->server_.Put(0, kShape);
  this->server_.PutBelow(1, kShape);
  this->server_.PutBelow(2, kShape);
  PieceMemory fetched(0, 4, kShape);
  const auto stream = this->client_->Fetch(fetched.Targets(), this->Within(kLong));
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(stream->WaitForSlice(i, kShape.layers - 1)) << i;
    EXPECT_TRUE(fetched.Holds(i)) << i;
  }
  EXPECT_FALSE(stream->WaitForSlice(3, 0));
}

TYPED_TEST_P(TransportConformance, GoneBeforeItWasLoaded) {
  this->server_.PutBelow(0, kShape);
  this->server_.PutBelow(1, kShape);
  this->server_.slow_control->FailGets(absl::NotFoundError("gone"));
  PieceMemory fetched(0, 2, kShape);
  const auto stream = this->client_->Fetch(fetched.Targets(), this->Within(kLong));
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
  EXPECT_FALSE(stream->WaitForSlice(1, 0));
  EXPECT_EQ(this->client_->counters().failed_fetches, 0u);
}

TYPED_TEST_P(TransportConformance, ErasedWhileReadStaysRight) {
  this->server_.Put(0, kShape);
  {
    const auto stream = this->client_->Fetch(this->InPlace(0, 1, kShape), this->Within(kLong));
    ASSERT_TRUE(stream->WaitForSlice(0, 0));
    EXPECT_TRUE(this->server_.store().Erase(TestKey(0)));
    ASSERT_TRUE(stream->WaitForSlice(0, kShape.layers - 1));
    for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
      EXPECT_TRUE(this->IsSlice(stream->Slice(0, layer), 0, kShape, layer));
    }
    EXPECT_TRUE(stream->LeaseHeld());
  }
  EXPECT_TRUE(this->server_.control->WaitForNoPins(kLong));
}

TYPED_TEST_P(TransportConformance, DroppingAStreamFreesItsPins) {
  for (uint32_t number = 0; number < 20; ++number) this->server_.Put(number, {4, 1 << 20});
  {
    const auto stream =
        this->client_->Fetch(this->InPlace(0, 20, {4, 1 << 20}), this->Within(kLong));
    ASSERT_TRUE(stream->WaitForSlice(0, 0));
  }
  EXPECT_TRUE(this->server_.control->WaitForNoPins(kLong));
  EXPECT_EQ(this->client_->counters().failed_fetches, 0u) << "leaving says nothing";
}

TYPED_TEST_P(TransportConformance, DamagedPieceIsAMissAndErased) {
  this->server_.Put(0, kShape);
  this->server_.Put(1, kShape);
  this->server_.Damage(1, 2);
  PieceMemory fetched(0, 2, kShape);
  const auto stream = this->client_->Fetch(fetched.Targets(), this->Within(kLong));
  EXPECT_TRUE(stream->WaitForSlice(1, 1));
  EXPECT_FALSE(stream->WaitForSlice(1, 2));
  EXPECT_FALSE(stream->WaitForSlice(1, 4));
  EXPECT_TRUE(stream->WaitForSlice(0, 4));
  EXPECT_EQ(this->client_->counters().checksum_failures, 1u);
  EXPECT_EQ(this->client_->counters().failed_fetches, 0u);
  EXPECT_TRUE(this->server_.WaitUntilGone(1, kLong));
  EXPECT_FALSE(this->server_.store().Find(TestKey(1)).has_value());
  EXPECT_TRUE(this->server_.store().Find(TestKey(0)).has_value());
}

TYPED_TEST_P(TransportConformance, CancelWakesWaiters) {
  this->server_.PutBelow(0, kShape);
  this->server_.slow_control->CloseGate();  // it is found, and never loaded
  const auto stream =
      this->client_->Fetch(this->InPlace(0, 1, kShape), this->Within(absl::Minutes(5)));
  EXPECT_EQ(stream->WaitForHeader().size(), 1u);
  std::vector<std::thread> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] { EXPECT_FALSE(stream->WaitForSlice(0, 0)); });
  }
  const absl::Time start = absl::Now();
  stream->Cancel();
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_FALSE(stream->WaitForSlice(0, 0)) << "nor later";
  EXPECT_EQ(this->client_->counters().failed_fetches, 0u);
  this->server_.slow_control->OpenGate();
}

TYPED_TEST_P(TransportConformance, TooLateIsAMiss) {
  this->server_.PutBelow(0, kShape);
  this->server_.slow_control->CloseGate();
  const absl::Time start = absl::Now();
  {
    const auto stream =
        this->client_->Fetch(this->InPlace(0, 1, kShape), this->Within(absl::Milliseconds(200)));
    EXPECT_FALSE(stream->WaitForSlice(0, 0));
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  this->server_.slow_control->OpenGate();
}

TYPED_TEST_P(TransportConformance, AReaderThatAsksSeesAllThatComes) {
  for (const uint32_t number : {0, 1, 3}) this->server_.Put(number, kShape);
  this->server_.PutBelow(4, kShape);
  PieceMemory fetched(0, 5, kShape);
  const auto stream = this->client_->Fetch(fetched.Targets(), this->AskingWithin(kLong));
  this->AskUntil(*stream, [&] { return stream->HeaderReady(); });
  const std::vector<std::string> tiers = stream->WaitForHeader();
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    for (uint32_t i = 0; i < 5; ++i) {
      this->AskUntil(*stream, [&] { return stream->SliceReady(i, layer); });
      EXPECT_EQ(stream->WaitForSlice(i, layer), i != 2) << i;
    }
  }
  for (const uint32_t i : {0, 1, 3, 4}) {
    EXPECT_FALSE(tiers[i].empty());
    EXPECT_TRUE(fetched.Holds(i)) << i;
    EXPECT_EQ(stream->ReadyLayers(i), kShape.layers) << i;
    const absl::Span<const std::byte> all = stream->Slices(i, 0, kShape.layers);
    EXPECT_EQ(all.size(), kShape.layers * kShape.slice_bytes);
    EXPECT_EQ(all.data(), stream->Slice(i, 0).data());
  }
  EXPECT_TRUE(tiers[2].empty());
  EXPECT_EQ(stream->ReadyLayers(2), 0u);
  EXPECT_TRUE(stream->SliceReady(0, 0)) << "what was ready stays so";
  EXPECT_TRUE(stream->SliceReady(0, kShape.layers)) << "there is no such layer";
}

TYPED_TEST_P(TransportConformance, AskingNeverWaitsForTheServer) {
  this->server_.PutBelow(0, kShape);
  this->server_.slow_control->CloseGate();  // it is found, and not loaded for now
  PieceMemory fetched(0, 1, kShape);
  const auto stream = this->client_->Fetch(fetched.Targets(), this->AskingWithin(kLong));
  this->AskUntil(*stream, [&] { return stream->HeaderReady(); });
  this->server_.slow_control->WaitForArrivals(1);
  EXPECT_FALSE(stream->SliceReady(0, 0));
  this->server_.slow_control->OpenGate();
  this->AskUntil(*stream, [&] { return stream->SliceReady(0, kShape.layers - 1); });
  EXPECT_TRUE(stream->WaitForSlice(0, kShape.layers - 1));
  EXPECT_TRUE(fetched.Holds(0));
}

TYPED_TEST_P(TransportConformance, WhatIsTooLateIsReadyToFail) {
  this->server_.PutBelow(0, kShape);
  this->server_.slow_control->CloseGate();
  const absl::Time start = absl::Now();
  {
    const auto stream = this->client_->Fetch(this->InPlace(0, 1, kShape),
                                             this->AskingWithin(absl::Milliseconds(300)));
    this->AskUntil(*stream, [&] { return stream->SliceReady(0, 0); });
    EXPECT_FALSE(stream->WaitForSlice(0, 0));
    EXPECT_TRUE(stream->HeaderReady());
  }
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(300));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  this->server_.slow_control->OpenGate();
}

TYPED_TEST_P(TransportConformance, CancelMakesAllReady) {
  this->server_.PutBelow(0, kShape);
  this->server_.slow_control->CloseGate();
  const auto stream = this->client_->Fetch(this->InPlace(0, 2, kShape), this->AskingWithin(kLong));
  std::thread canceller([&] { stream->Cancel(); });
  this->AskUntil(*stream, [&] { return stream->SliceReady(0, 0) && stream->SliceReady(1, 0); });
  canceller.join();
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
  EXPECT_TRUE(stream->HeaderReady());
  this->server_.slow_control->OpenGate();
}

TYPED_TEST_P(TransportConformance, AServerThatEndsMakesAllReady) {
  this->broken_ = true;
  this->server_.PutBelow(0, kShape);
  this->server_.slow_control->CloseGate();
  const auto stream = this->client_->Fetch(this->InPlace(0, 1, kShape), this->AskingWithin(kLong));
  this->AskUntil(*stream, [&] { return stream->HeaderReady(); });
  std::thread stopper([&] { this->server_.Stop(); });
  const absl::Time start = absl::Now();
  this->AskUntil(*stream, [&] { return stream->SliceReady(0, 0); });
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  this->server_.slow_control->OpenGate();
  stopper.join();
}

TYPED_TEST_P(TransportConformance, ManyFetchesSideBySide) {
  PieceMemory stored(0, 16, kShape);
  EXPECT_EQ(this->client_->Store(stored.Sources(), kLong), 16u);
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 5; ++round) {
        PieceMemory fetched(0, 16, kShape);
        const auto stream = this->client_->Fetch(fetched.Targets(), this->Within(kLong));
        for (uint32_t piece = 0; piece < 16; ++piece) {
          if (stream->WaitForSlice(piece, kShape.layers - 1) && fetched.Holds(piece)) ++right;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 4 * 5 * 16);
  EXPECT_TRUE(this->server_.control->WaitForNoPins(kLong));
}

TYPED_TEST_P(TransportConformance, ServerThatEndsInMidFetchIsFoundAgain) {
  this->broken_ = true;
  constexpr uint32_t kPieces = 8;
  constexpr PieceShape kBig = {.layers = 8, .slice_bytes = 1 << 20};
  for (uint32_t number = 0; number < kPieces; ++number) this->server_.Put(number, kBig);
  this->server_.Put(100, kShape);
  PieceMemory fetched(0, kPieces, kBig);
  {
    const auto stream = this->client_->Fetch(fetched.Targets(), this->Within(kLong));
    ASSERT_TRUE(stream->WaitForSlice(0, 0));
    this->server_.Stop();
    const absl::Time start = absl::Now();
    for (uint32_t i = 0; i < kPieces; ++i) {
      // Whatever had come before the end may be used; nothing else comes.
      if (stream->WaitForSlice(i, kBig.layers - 1)) {
        EXPECT_TRUE(fetched.Holds(i)) << i;
      }
    }
    EXPECT_LT(absl::Now() - start, absl::Seconds(10));
    EXPECT_FALSE(this->FetchesWithin(absl::Milliseconds(300), 100));
  }
  this->server_.Start();
  EXPECT_TRUE(this->FetchesWithin(kLong, 100));
}

// A memory that holds half of the pieces that are stored over and over: what is read is right, or
// said to be lost.
TYPED_TEST_P(TransportConformance, EvictionNeverGivesWrongBytes) {
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    std::minstd_rand random(1);
    while (!stop) {
      const uint32_t number = random() % 40;
      if (random() % 4 == 0) this->server_.store().Erase(TestKey(number));
      (void)PutTestPiece(&this->server_.store(), number, {3, 4 << 20});
    }
  });
  int right = 0, wrong = 0;
  std::minstd_rand random(2);
  const absl::Time end = absl::Now() + absl::Seconds(3);
  while (absl::Now() < end) {
    const uint32_t number = random() % 40;
    const PieceShape shape = {3, 4 << 20};
    const auto stream = this->client_->Fetch(this->InPlace(number, 1, shape), this->Within(kLong));
    for (uint32_t layer = 0; layer < shape.layers; ++layer) {
      if (!stream->WaitForSlice(0, layer)) break;
      const bool is_right = this->IsSlice(stream->Slice(0, layer), number, shape, layer);
      if (is_right) ++right;
      if (!is_right && stream->LeaseHeld()) ++wrong;
    }
  }
  stop = true;
  writer.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(right, 0);
  EXPECT_EQ(this->client_->counters().checksum_failures, 0u);
}

REGISTER_TYPED_TEST_SUITE_P(TransportConformance, StoreThenFetchIntoMemory, FetchInPlace,
                            StoredAgainIsNotSentAgain, MissesAreData, FindMissingMovesNothing,
                            FindMissingOfAServerThatEndedIsAllMissing, OtherSizesAreAMiss,
                            ThousandKeys, LayersComeInOrderAndOthersDoNotWaitForThem,
                            StopAtFirstMiss, LoadedFromALowerTier, GoneBeforeItWasLoaded,
                            ErasedWhileReadStaysRight, DroppingAStreamFreesItsPins,
                            DamagedPieceIsAMissAndErased, CancelWakesWaiters, TooLateIsAMiss,
                            AReaderThatAsksSeesAllThatComes, AskingNeverWaitsForTheServer,
                            WhatIsTooLateIsReadyToFail, CancelMakesAllReady,
                            AServerThatEndsMakesAllReady, ManyFetchesSideBySide,
                            ServerThatEndsInMidFetchIsFoundAgain, EvictionNeverGivesWrongBytes);

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_CLIENT_TRANSPORT_CONFORMANCE_H_
