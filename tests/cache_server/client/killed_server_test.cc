// The real program, killed while it sends.
#include <signal.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "base/auto_reset_event.h"
#include "cache_server/client/cache_client.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/server_fixture.h"
#include "tests/cache_server/testing/server_process.h"

namespace tessera::testing {
namespace {

constexpr PieceShape kShape = {.layers = 8, .slice_bytes = 1 << 20};
constexpr uint32_t kPieces = 16;  // 128 MiB: far more than any buffer on the way holds
// Small messages make the server slow enough to be caught in the middle.
const std::vector<std::string> kSlow = {"--message_bytes=4096"};

std::unique_ptr<CacheClient> MakeClient(const std::string& address, bool shared_memory) {
  auto client = MakeCacheClient({.address = address, .shared_memory = shared_memory});
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

TEST(KilledServerTest, MidFetchFailsWithoutHangingAndIsFoundAgain) {
  auto server = std::make_unique<ServerProcess>("127.0.0.1:0", kSlow);
  ASSERT_NE(server->port(), 0) << server->output();
  const std::string address = server->address();
  const auto client = MakeClient(address, /*shared_memory=*/false);
  PieceMemory memory(0, kPieces, kShape);
  const std::vector<StoreSource> sources = memory.Sources();
  ASSERT_EQ(client->Store(sources, absl::Seconds(60)), kPieces);

  PieceMemory fetched(0, kPieces, kShape);
  auto stream = client->Fetch(fetched.Targets(), {.timeout = absl::Seconds(60)});
  ASSERT_EQ(stream->WaitForHeader(), std::vector<std::string>(kPieces, "ram"));
  // Stopped, it cannot send the rest; killed, its connection breaks.
  server->Signal(SIGSTOP);
  std::thread killer([&] { server->Signal(SIGKILL); });
  EXPECT_FALSE(stream->WaitForSlice(kPieces - 1, kShape.layers - 1));
  EXPECT_FALSE(stream->WaitForSlice(kPieces - 1, kShape.layers - 1));
  killer.join();
  stream.reset();
  EXPECT_EQ(client->counters().failed_fetches, 1u);
  EXPECT_EQ(server->Wait(), -SIGKILL);

  server = std::make_unique<ServerProcess>(address);
  ASSERT_NE(server->port(), 0) << server->output();
  size_t stored = 0;
  for (const absl::Time end = absl::Now() + absl::Seconds(20); stored == 0 && absl::Now() < end;) {
    stored = client->Store(sources, absl::Seconds(10));
  }
  EXPECT_EQ(stored, kPieces) << "a new server has nothing";
}

// A dead process lets go of nothing: what it had shown under a lease stays as it was.
TEST(KilledServerTest, SharedMemoryOutlivesItsServer) {
  auto server = std::make_unique<ServerProcess>("127.0.0.1:0");
  ASSERT_NE(server->port(), 0) << server->output();
  const std::string address = server->address();
  const auto client = MakeClient(address, /*shared_memory=*/true);
  PieceMemory memory(0, kPieces, kShape);
  const std::vector<StoreSource> sources = memory.Sources();
  ASSERT_EQ(client->Store(sources, absl::Seconds(60)), kPieces);
  PieceMemory fetched(0, kPieces, kShape);
  {
    const auto stream = client->Fetch(fetched.Targets(), {.timeout = absl::Seconds(60)});
    ASSERT_TRUE(stream->WaitForSlice(0, 0));
    server->Signal(SIGKILL);
    EXPECT_EQ(server->Wait(), -SIGKILL);
    for (uint32_t i = 0; i < kPieces; ++i) {
      EXPECT_TRUE(stream->WaitForSlice(i, kShape.layers - 1));
      EXPECT_TRUE(fetched.Holds(i));
    }
  }
  EXPECT_EQ(client->counters().shm_bytes, kPieces * kShape.bytes());
  const auto gone = client->Fetch(fetched.Targets(), {.timeout = absl::Seconds(5)});
  EXPECT_FALSE(gone->WaitForSlice(0, 0));

  server = std::make_unique<ServerProcess>(address);
  ASSERT_NE(server->port(), 0) << server->output();
  // Found again, by both ways.
  const uint64_t before = client->counters().shm_bytes;
  for (const absl::Time end = absl::Now() + absl::Seconds(40);
       client->counters().shm_bytes == before && absl::Now() < end;) {
    client->Store(sources, absl::Seconds(10));
    const auto stream = client->Fetch(fetched.Targets(), {.timeout = absl::Seconds(10)});
    stream->WaitForSlice(0, 0);
  }
  EXPECT_GT(client->counters().shm_bytes, before);
}

// A server that was stopped after it took some pieces: whoever fetches them runs into the deadline.
class PausedServerTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    client_ = MakeClient(server_.address(), /*shared_memory=*/GetParam());
    ASSERT_EQ(client_->Store(memory_.Sources(), absl::Seconds(60)), kPieces);
    server_.Signal(SIGSTOP);
    start_ = absl::Now();
  }
  void TearDown() override {
    EXPECT_LT(absl::Now() - start_, absl::Seconds(4));
    EXPECT_EQ(client_->counters().shm_fallbacks, GetParam() ? 1u : 0u);
    server_.Signal(SIGCONT);
  }

  static constexpr absl::Duration kTimeout = absl::Milliseconds(600);
  ServerProcess server_{"127.0.0.1:0"};
  PieceMemory memory_{0, kPieces, kShape};
  std::unique_ptr<CacheClient> client_;
  absl::Time start_;
};
INSTANTIATE_TEST_SUITE_P(WithAndWithoutSharedMemory, PausedServerTest, ::testing::Bool());

TEST_P(PausedServerTest, RunsIntoTheDeadline) {
  const auto stream = client_->Fetch(memory_.Targets(), {.timeout = kTimeout});
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
}

TEST_P(PausedServerTest, IsNotWaitedForByWhoAsks) {
  AutoResetEvent progress;
  const auto stream = client_->Fetch(
      memory_.Targets(), {.timeout = kTimeout, .on_progress = [&] { progress.Signal(); }});
  EXPECT_FALSE(stream->HeaderReady());
  while (!stream->HeaderReady()) progress.Await(stream->ready_by());
  EXPECT_EQ(stream->WaitForHeader(), std::vector<std::string>(kPieces));
  EXPECT_TRUE(stream->SliceReady(0, 0));
  EXPECT_FALSE(stream->WaitForSlice(0, 0));
}

TEST(ServerProcessTest, TakenPortIsOneClearLine) {
  ServerProcess first("127.0.0.1:0");
  ServerProcess second(first.address());
  EXPECT_EQ(second.port(), 0);
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_EQ(second.output(), "tessera_cache_server: cannot listen on " + first.address() +
                                 ": taken, or not an address of ours\n");
}

TEST(ServerProcessTest, StopsOnSigterm) {
  ServerProcess server("127.0.0.1:0");
  ASSERT_NE(server.port(), 0);
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0);
}

TEST(ServerProcessTest, RefusesTooFewKeysPerCall) {
  ServerProcess server("127.0.0.1:0", {"--max_keys_per_call=10"});
  EXPECT_EQ(server.port(), 0);
  EXPECT_EQ(server.Wait(), 1);
}

}  // namespace
}  // namespace tessera::testing
