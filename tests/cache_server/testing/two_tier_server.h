// A real server in the test's own process over memory and a slower tier, both under control, and a
// generated stub to call it with.
#ifndef TESSERA_TESTS_CACHE_SERVER_TESTING_TWO_TIER_SERVER_H_
#define TESSERA_TESTS_CACHE_SERVER_TESTING_TWO_TIER_SERVER_H_

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cache_server/service/server.h"
#include "cache_server/store/chunk_store.h"
#include "gtest/gtest.h"
#include "proto/kv_cache.grpc.pb.h"
#include "tests/cache_server/testing/test_pieces.h"
#include "tests/cache_server/testing/test_ram_tier.h"
#include "tests/cache_server/testing/tier_doubles.h"

namespace tessera::testing {

class TwoTierServer : public ::testing::Test {
 protected:
  TwoTierServer() {
    options_.listen = "127.0.0.1:0";
    store_options_.admission = AdmissionKind::kPinned;
  }

  // Starts a server with `options_` and `store_options_`.
  void Start() {
    std::vector<std::unique_ptr<Tier>> tiers;
    RamTierOptions fast_options, slow_options;
    fast_options.on_evicted = events_.ListenerFor("fast");
    slow_options.on_evicted = events_.ListenerFor("slow");
    for (auto [control, options] :
         {std::pair(fast_control_, fast_options), std::pair(slow_control_, slow_options)}) {
      auto tier = MakeTestRamTier(uint64_t{8} << 20, options);
      tiers_.push_back(tier.get());
      tiers.push_back(std::make_unique<WrappedTier>(std::move(tier), control));
    }
    store_ = std::make_unique<ChunkStore>(std::move(tiers), store_options_, &events_);
    auto server = CacheServer::Start(
        options_, {.store = store_.get(), .events = &events_, .counters = &counters_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = MakeStub(grpc::InsecureChannelCredentials());
  }

  // With connections of its own.
  std::unique_ptr<cache::v1::KvCache::Stub> MakeStub(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxReceiveMessageSize(16 << 20);
    return cache::v1::KvCache::NewStub(grpc::CreateCustomChannel(
        absl::StrCat("localhost:", server_->port()), credentials, arguments));
  }

  static std::string Raw(uint32_t number) { return std::string(TestKey(number).AsBytes()); }
  // A request with the keys of these test pieces.
  template <typename Request>
  static Request Keys(const std::vector<uint32_t>& numbers) {
    Request request;
    for (const uint32_t number : numbers) request.add_keys(Raw(number));
    return request;
  }

  // Calls `method` of the stub: Call(&KvCache::Stub::Pin, request, &response).
  template <typename Method, typename Request, typename Response>
  grpc::Status Call(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    return (stub_.get()->*method)(&context, request, response);
  }

  Tier* fast() { return tiers_[0]; }
  Tier* slow() { return tiers_[1]; }

  ServerOptions options_;
  ChunkStoreOptions store_options_;
  KeyEvents events_;
  TransportCounters counters_;
  const std::shared_ptr<TierControl> fast_control_ = std::make_shared<TierControl>();
  const std::shared_ptr<TierControl> slow_control_ = std::make_shared<TierControl>();
  std::vector<Tier*> tiers_;
  std::unique_ptr<ChunkStore> store_;
  std::unique_ptr<CacheServer> server_;
  std::unique_ptr<cache::v1::KvCache::Stub> stub_;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TESTING_TWO_TIER_SERVER_H_
