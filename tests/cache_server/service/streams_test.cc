// Fetches from a slow tier, watching and draining: what happens while a stream is open.
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/two_tier_server.h"

namespace tessera::testing {
namespace {

using cache::v1::FetchRequest;
using cache::v1::FetchResponse;
using cache::v1::WatchEvent;
using Stub = cache::v1::KvCache::Stub;

constexpr PieceShape kShape = {.layers = 2, .slice_bytes = 5000};
constexpr absl::Duration kLong = absl::Seconds(30);

class StreamsTest : public TwoTierServer {
 protected:
  // "H:" and found keys for a header, "layer:key" for a slice.
  static std::string Name(const FetchResponse& response) {
    if (response.has_slice()) {
      return absl::StrCat(response.slice().layer(), ":", response.slice().key_index());
    }
    std::string name = "H:";
    for (int i = 0; i < response.header().keys_size(); ++i) {
      if (response.header().keys(i).found()) absl::StrAppend(&name, i);
    }
    return name;
  }
  static std::string ReadRest(grpc::ClientReader<FetchResponse>* reader) {
    std::string rest;
    FetchResponse response;
    while (reader->Read(&response)) absl::StrAppend(&rest, Name(response), " ");
    return rest;
  }
};

TEST_F(StreamsTest, TheHeaderDoesNotWaitForTheDisk) {
  Start();
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(fast(), 2, kShape).ok());
  slow_control_->CloseGate();
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, Keys<FetchRequest>({2, 1, 3}));
  FetchResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(Name(response), "H:01");
  EXPECT_EQ(response.header().keys(1).layers(), kShape.layers);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(Name(response), "0:0");
  slow_control_->WaitForArrivals(1);
  slow_control_->OpenGate();
  EXPECT_EQ(ReadRest(reader.get()), "0:1 1:0 1:1 ");
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(fast()->Find(TestKey(1)).has_value());
}

TEST_F(StreamsTest, ADamagedPieceIsTakenBack) {
  Start();
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(slow(), 2, kShape).ok());
  slow_control_->FailGets(absl::DataLossError("damaged"));
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, Keys<FetchRequest>({1, 2}));
  // The first header may have come before or after the loads failed; the last one tells the truth.
  const std::string rest = ReadRest(reader.get());
  EXPECT_TRUE(absl::EndsWith(rest, "H: ")) << rest;
  EXPECT_FALSE(absl::StrContains(rest, "0:")) << rest;
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(counters_.lost_pieces, 2u);
}

TEST_F(StreamsTest, OthersGoOnWhenOneIsTakenBack) {
  Start();
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(fast(), 2, kShape).ok());
  slow_control_->CloseGate();
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, Keys<FetchRequest>({1, 2}));
  slow_control_->WaitForArrivals(1);
  // It goes while it is being loaded, after it was announced.
  FetchResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(Name(response), "H:01");
  ASSERT_TRUE(slow()->Erase(TestKey(1)).ok());
  slow_control_->OpenGate();
  EXPECT_EQ(ReadRest(reader.get()), "H:1 0:1 1:1 ");
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(StreamsTest, AReaderThatLeavesWhileItWaitsForTheDiskIsGone) {
  Start();
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(fast(), 2, kShape).ok());
  slow_control_->CloseGate();
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, Keys<FetchRequest>({1, 2}));
  FetchResponse response;
  ASSERT_TRUE(reader->Read(&response));
  slow_control_->WaitForArrivals(1);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // The load goes on without it; when it is over, nothing is held.
  slow_control_->OpenGate();
  EXPECT_TRUE(fast_control_->WaitForNoPins(kLong));
  EXPECT_TRUE(slow_control_->WaitForNoPins(kLong));
  server_->Stop(absl::Seconds(20));
  EXPECT_EQ(server_->open_fetches(), 0u);
}

TEST_F(StreamsTest, ASlowDiskIsNotASlowReader) {
  options_.lease = absl::Milliseconds(50);
  Start();
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  slow_control_->CloseGate();
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, Keys<FetchRequest>({1}));
  slow_control_->WaitForArrivals(1);
  // Many leases long: the server looks every 100 ms.
  absl::SleepFor(absl::Milliseconds(400));
  slow_control_->OpenGate();
  EXPECT_EQ(ReadRest(reader.get()), "H:0 0:0 1:0 ");
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(StreamsTest, AChainEndsAtItsFirstMiss) {
  Start();
  for (const uint32_t number : {1, 2, 4}) {
    ASSERT_TRUE(PutTestPiece(fast(), number, kShape).ok());
  }
  auto request = Keys<FetchRequest>({1, 2, 3, 4});
  request.set_stop_at_first_miss(true);
  grpc::ClientContext context;
  const auto reader = stub_->Fetch(&context, request);
  EXPECT_EQ(ReadRest(reader.get()), "H:01 0:0 0:1 1:0 1:1 ");
}

TEST_F(StreamsTest, WatchTellsWhatComesAndGoes) {
  Start();
  grpc::ClientContext context;
  const auto reader = stub_->Watch(&context, {});
  reader->WaitForInitialMetadata();
  ASSERT_TRUE(PutTestPiece(store_.get(), 1, kShape).ok());
  ASSERT_TRUE(store_->Erase(TestKey(1)));
  WatchEvent event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.kind(), WatchEvent::ADDED);
  EXPECT_EQ(event.key(), Raw(1));
  EXPECT_EQ(event.tier(), "ram");
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.kind(), WatchEvent::EVICTED);
  EXPECT_EQ(event.reason(), "erased");
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(StreamsTest, ASlowWatcherLearnsThatItMissedSome) {
  Start();
  grpc::ClientContext context;
  const auto reader = stub_->Watch(&context, {});
  reader->WaitForInitialMetadata();
  // More than the server and the connection hold for a watcher that does not read.
  constexpr uint64_t kEvents = 200000;
  for (uint64_t i = 0; i < kEvents; ++i) events_.Added(TestKey(1), "ram");
  uint64_t told = 0;
  uint64_t missed = 0;
  events_.Added(TestKey(2), "ram");
  WatchEvent event;
  while (reader->Read(&event)) {
    if (event.kind() == WatchEvent::MISSED) {
      missed += event.missed();
    } else {
      ++told;
    }
    if (event.key() == Raw(2)) break;
    // What was dropped is told with the next event that finds room.
    if (told + missed >= kEvents / 2) events_.Added(TestKey(2), "ram");
  }
  EXPECT_GT(missed, 0u);
  context.TryCancel();
}

TEST_F(StreamsTest, WatchersAreBoundedAndEndWithTheServer) {
  options_.max_watches = 1;
  Start();
  grpc::ClientContext context, second;
  const auto reader = stub_->Watch(&context, {});
  reader->WaitForInitialMetadata();
  WatchEvent event;
  const auto refused = stub_->Watch(&second, {});
  EXPECT_FALSE(refused->Read(&event));
  EXPECT_EQ(refused->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  server_->Stop(kLong);
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(StreamsTest, DrainWaitsForOpenStreamsAndRefusesNewOnes) {
  Start();
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  slow_control_->CloseGate();
  grpc::ClientContext open;
  const auto reader = stub_->Fetch(&open, Keys<FetchRequest>({1}));
  slow_control_->WaitForArrivals(1);
  cache::v1::DrainResponse drained;
  std::thread drainer([this, &drained] {
    const grpc::Status status = Call(&Stub::Drain, cache::v1::DrainRequest(), &drained);
    EXPECT_TRUE(status.ok()) << status.error_message();
  });
  // It refuses from the moment that Stats says so.
  cache::v1::StatsResponse stats;
  while (!stats.draining()) ASSERT_TRUE(Call(&Stub::Stats, cache::v1::StatsRequest(), &stats).ok());
  grpc::ClientContext late;
  FetchResponse response;
  const auto refused = stub_->Fetch(&late, Keys<FetchRequest>({1}));
  EXPECT_FALSE(refused->Read(&response));
  EXPECT_EQ(refused->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  slow_control_->OpenGate();
  EXPECT_EQ(ReadRest(reader.get()), "H:0 0:0 1:0 ");
  EXPECT_TRUE(reader->Finish().ok());
  drainer.join();
  EXPECT_EQ(drained.open_fetches(), 0u);
  cache::v1::DrainRequest resume;
  resume.set_resume(true);
  ASSERT_TRUE(Call(&Stub::Drain, resume, &drained).ok());
  grpc::ClientContext again;
  const auto served = stub_->Fetch(&again, Keys<FetchRequest>({1}));
  EXPECT_EQ(ReadRest(served.get()), "H:0 0:0 1:0 ");
}

TEST_F(StreamsTest, DrainSaysWhatIsOpenAtItsDeadline) {
  Start();
  ASSERT_TRUE(PutTestPiece(slow(), 1, kShape).ok());
  slow_control_->CloseGate();
  grpc::ClientContext open;
  const auto reader = stub_->Fetch(&open, Keys<FetchRequest>({1}));
  slow_control_->WaitForArrivals(1);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(1)));
  cache::v1::DrainResponse drained;
  const grpc::Status status = stub_->Drain(&context, {}, &drained);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(drained.open_fetches(), 1u);
  slow_control_->OpenGate();
  ReadRest(reader.get());
}

}  // namespace
}  // namespace tessera::testing
