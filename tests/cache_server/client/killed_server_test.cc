// The real program, killed while it sends.
#include <signal.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
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

TEST(KilledServerTest, MidFetchFailsWithoutHangingAndIsFoundAgain) {
  auto server = std::make_unique<ServerProcess>("127.0.0.1:0", kSlow);
  ASSERT_NE(server->port(), 0) << server->output();
  const std::string address = server->address();
  const auto client = MakeGrpcCacheClient(address);
  PieceMemory memory(0, kPieces, kShape);
  const std::vector<StoreSource> sources = memory.Sources();
  ASSERT_EQ(client->Store(sources, absl::Seconds(60)), kPieces);

  PieceMemory fetched(0, kPieces, kShape);
  auto stream = client->Fetch(fetched.Targets(), absl::Seconds(60));
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

TEST(KilledServerTest, PausedServerRunsIntoTheDeadline) {
  ServerProcess server("127.0.0.1:0");
  const auto client = MakeGrpcCacheClient(server.address());
  PieceMemory memory(0, kPieces, kShape);
  ASSERT_EQ(client->Store(memory.Sources(), absl::Seconds(60)), kPieces);
  server.Signal(SIGSTOP);
  const absl::Time start = absl::Now();
  {
    const auto stream = client->Fetch(memory.Targets(), absl::Milliseconds(300));
    EXPECT_FALSE(stream->WaitForSlice(0, 0));
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
  server.Signal(SIGCONT);
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
