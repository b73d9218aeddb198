// A real server in the test's own process, on a free port, over a RAM tier that counts pins.
#ifndef TESSERA_TESTS_CACHE_SERVER_TESTING_SERVER_FIXTURE_H_
#define TESSERA_TESTS_CACHE_SERVER_TESTING_SERVER_FIXTURE_H_

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cache_server/client/cache_client.h"
#include "cache_server/service/server.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/metered_tier.h"
#include "gtest/gtest.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/test_ram_tier.h"
#include "tests/cache_server/testing/tier_doubles.h"

namespace tessera::testing {

class ServerFixture : public ::testing::Test {
 protected:
  ServerFixture() {
    options_.listen = "127.0.0.1:0";
    std::vector<std::unique_ptr<Tier>> tiers;
    tiers.push_back(std::make_unique<WrappedTier>(
        MakeMeteredTier(MakeTestRamTier(uint64_t{512} << 20)), control_));
    store_ = std::make_unique<ChunkStore>(std::move(tiers), ChunkStoreOptions(), &events_);
  }

  // Starts the server with `options_`; again on the same port, if it ran before.
  void StartServer() {
    options_.instance_id = RandomInstanceId();
    auto server = CacheServer::Start(options_, parts());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    if (server_->port() != 0) options_.listen = address();
  }

  ServerParts parts() {
    return {.store = store_.get(), .events = &events_, .counters = &counters_};
  }

  std::string address() const {
    return server_->port() == 0 ? options_.listen : absl::StrCat("127.0.0.1:", server_->port());
  }

  uint64_t entries() const { return store_->Stats()[0].entries; }

  ServerOptions options_;
  const std::shared_ptr<TierControl> control_ = std::make_shared<TierControl>();
  KeyEvents events_;
  TransportCounters counters_;
  std::unique_ptr<ChunkStore> store_;
  std::unique_ptr<CacheServer> server_;
};

// Memory for test pieces first, first + 1, ... of one shape, as a client's sources and targets.
class PieceMemory {
 public:
  PieceMemory(uint32_t first, uint32_t count, PieceShape shape)
      : first_(first), count_(count), shape_(shape), memory_(count * shape.bytes()) {}

  // Fills the memory with the test pieces' bytes.
  std::vector<StoreSource> Sources() {
    std::vector<StoreSource> sources;
    for (uint32_t i = 0; i < count_; ++i) {
      const std::vector<std::byte> bytes = TestBytes(first_ + i, shape_);
      std::memcpy(piece(i), bytes.data(), bytes.size());
      sources.push_back({TestKey(first_ + i), shape_.layers, shape_.slice_bytes, piece(i)});
    }
    return sources;
  }

  std::vector<FetchTarget> Targets() {
    std::vector<FetchTarget> targets;
    for (uint32_t i = 0; i < count_; ++i) {
      targets.push_back({TestKey(first_ + i), shape_.layers, shape_.slice_bytes, piece(i)});
    }
    return targets;
  }

  bool Holds(uint32_t i) {
    const std::vector<std::byte> bytes = TestBytes(first_ + i, shape_);
    return std::memcmp(piece(i), bytes.data(), bytes.size()) == 0;
  }

 private:
  std::byte* piece(uint32_t i) { return memory_.data() + i * shape_.bytes(); }

  const uint32_t first_;
  const uint32_t count_;
  const PieceShape shape_;
  std::vector<std::byte> memory_;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TESTING_SERVER_FIXTURE_H_
