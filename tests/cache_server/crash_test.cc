// The real server with a disk, killed at fifty random moments while it is written to and read from:
// no read ever gives wrong bytes, what Flush called durable is there afterwards, and every start
// succeeds.
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "cache_server/client/cache_client.h"
#include "gtest/gtest.h"
#include "proto/kv_cache.grpc.pb.h"
#include "tests/cache_server/testing/server_process.h"
#include "tests/cache_server/testing/test_pieces.h"

namespace tessera::testing {
namespace {

constexpr int kKills = 50;
constexpr absl::Duration kTimeout = absl::Seconds(20);

// Pieces of five shapes, 12 KiB to 320 KiB; which one a number has never changes.
PieceShape ShapeOf(uint32_t number) {
  return {.layers = 1 + number % 5, .slice_bytes = 12288 + 13000 * (number % 5)};
}

// What is known of the pieces written so far. Thread-safe.
class Ledger {
 public:
  uint32_t Next() { return next_.fetch_add(1); }
  uint32_t written() const { return next_.load(); }
  void AddDurable(const std::vector<uint32_t>& numbers) {
    absl::MutexLock lock(&mutex_);
    durable_.insert(durable_.end(), numbers.begin(), numbers.end());
  }
  std::vector<uint32_t> durable() const {
    absl::MutexLock lock(&mutex_);
    return durable_;
  }

 private:
  std::atomic<uint32_t> next_{0};
  mutable absl::Mutex mutex_;
  std::vector<uint32_t> durable_ ABSL_GUARDED_BY(mutex_);
};

class CrashTest : public ::testing::Test {
 protected:
  std::unique_ptr<ServerProcess> StartServer() {
    const std::vector<std::string> flags = {
        absl::StrCat("--disk_folder=", std::getenv("TEST_TMPDIR"), "/disk"),
        "--disk_bytes=4294967296", "--disk_write_buffer_bytes=4194304",
        "--disk_free_floor_bytes=1048576", "--admission=all", "--flush_interval=300ms",
        // Small, so that most reads come from the disk.
        "--ram_bytes=16777216", "--shm_socket=none"};
    return std::make_unique<ServerProcess>("127.0.0.1:0", flags);
  }

  static std::unique_ptr<CacheClient> Client(const ServerProcess& server) {
    auto client = MakeCacheClient({.address = server.address()});
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  // Stores a few pieces and asks for them to be durable, again and again, until the server is gone.
  void WriteUntilKilled(const ServerProcess& server) {
    const auto client = Client(server);
    const auto stub = cache::v1::KvCache::NewStub(
        grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials()));
    while (!killed_) {
      std::vector<uint32_t> numbers;
      std::vector<std::vector<std::byte>> bytes;
      std::vector<StoreSource> sources;
      for (int i = 0; i < 4; ++i) {
        numbers.push_back(ledger_.Next());
        const PieceShape shape = ShapeOf(numbers.back());
        bytes.push_back(TestBytes(numbers.back(), shape));
        sources.push_back(
            {TestKey(numbers.back()), shape.layers, shape.slice_bytes, bytes.back().data()});
      }
      client->Store(sources, kTimeout);
      cache::v1::FlushRequest request;
      for (const uint32_t number : numbers) {
        request.add_keys(std::string(TestKey(number).AsBytes()));
      }
      cache::v1::FlushResponse response;
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(absl::Now() + kTimeout));
      if (stub->Flush(&context, request, &response).ok() &&
          response.not_durable_keys_size() == 0) {
        ledger_.AddDurable(numbers);
      }
    }
  }

  void ReadUntilKilled(const ServerProcess& server, unsigned seed) {
    const auto client = Client(server);
    std::minstd_rand random(seed);
    while (!killed_) {
      const uint32_t written = ledger_.written();
      if (written == 0) continue;
      std::vector<uint32_t> numbers;
      for (int i = 0; i < 6; ++i) numbers.push_back(random() % written);
      Read(client.get(), numbers);
    }
  }

  // Fetches, and returns how many came whole. Whatever comes must be right.
  size_t Read(CacheClient* client, const std::vector<uint32_t>& numbers) {
    std::vector<std::vector<std::byte>> bytes;
    std::vector<FetchTarget> targets;
    for (const uint32_t number : numbers) {
      const PieceShape shape = ShapeOf(number);
      bytes.emplace_back(shape.bytes());
      targets.push_back({TestKey(number), shape.layers, shape.slice_bytes, bytes.back().data()});
    }
    const auto stream = client->Fetch(std::move(targets), {.timeout = kTimeout});
    size_t whole = 0;
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (!stream->WaitForSlice(i, ShapeOf(numbers[i]).layers - 1)) continue;
      ++whole;
      if (bytes[i] != TestBytes(numbers[i], ShapeOf(numbers[i]))) ++wrong_;
    }
    reads_ += whole;
    return whole;
  }

  void ExpectDurable(const ServerProcess& server, const std::vector<uint32_t>& numbers) {
    const auto client = Client(server);
    for (size_t first = 0; first < numbers.size(); first += 64) {
      const std::vector<uint32_t> some(
          numbers.begin() + first, numbers.begin() + std::min(first + 64, numbers.size()));
      EXPECT_EQ(Read(client.get(), some), some.size());
    }
  }

  Ledger ledger_;
  std::atomic<bool> killed_ = false;
  std::atomic<uint64_t> wrong_ = 0;
  std::atomic<uint64_t> reads_ = 0;
};

TEST_F(CrashTest, FiftyKills) {
  std::minstd_rand random(20251);
  size_t checked = 0;
  for (int kill = 0; kill < kKills; ++kill) {
    const auto server = StartServer();
    ASSERT_NE(server->port(), 0) << server->output();
    const std::vector<uint32_t> durable = ledger_.durable();
    // All that became durable since the last look; what came before was looked at then.
    ExpectDurable(*server, {durable.begin() + checked, durable.end()});
    checked = durable.size();
    killed_ = false;
    std::vector<std::thread> threads;
    threads.emplace_back([&] { WriteUntilKilled(*server); });
    for (unsigned seed : {1u, 2u}) {
      threads.emplace_back([&, seed] { ReadUntilKilled(*server, seed + 10 * kill); });
    }
    absl::SleepFor(absl::Milliseconds(5 + random() % 400));
    server->Signal(SIGKILL);
    killed_ = true;
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(wrong_, 0u);
  }
  const auto server = StartServer();
  ASSERT_NE(server->port(), 0) << server->output();
  ExpectDurable(*server, ledger_.durable());
  EXPECT_EQ(wrong_, 0u);
  // It tested something.
  EXPECT_GT(ledger_.durable().size(), 100u);
  EXPECT_GT(reads_, 1000u);
  std::printf("%u pieces written, %zu durable, %lu read\n", ledger_.written(),
              ledger_.durable().size(), static_cast<unsigned long>(reads_.load()));
}

}  // namespace
}  // namespace tessera::testing
