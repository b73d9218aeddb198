// Pin, Unpin, Prefetch, List, Delete, Clear, Flush, Stats: through the generated stub.
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cache_server/testing/two_tier_server.h"

namespace tessera::testing {
namespace {

using cache::v1::ClearRequest;
using cache::v1::ClearResponse;
using cache::v1::DeleteRequest;
using cache::v1::DeleteResponse;
using cache::v1::Entry;
using cache::v1::FlushRequest;
using cache::v1::FlushResponse;
using cache::v1::ListRequest;
using cache::v1::ListResponse;
using cache::v1::PinRequest;
using cache::v1::PinResponse;
using cache::v1::PrefetchRequest;
using cache::v1::PrefetchResponse;
using cache::v1::StatsRequest;
using cache::v1::StatsResponse;
using cache::v1::UnpinRequest;
using cache::v1::UnpinResponse;
using Stub = cache::v1::KvCache::Stub;

constexpr PieceShape kShape = {.layers = 2, .slice_bytes = 5000};

class LifeCycleTest : public TwoTierServer {
 protected:
  PinResponse Pin(const std::vector<uint32_t>& numbers, uint64_t ttl_ms) {
    auto request = Keys<PinRequest>(numbers);
    request.set_ttl_ms(ttl_ms);
    PinResponse response;
    EXPECT_TRUE(Call(&Stub::Pin, request, &response).ok());
    return response;
  }
  ListResponse List(const ListRequest& request) {
    ListResponse response;
    const grpc::Status status = Call(&Stub::List, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
};

TEST_F(LifeCycleTest, PinLoadsHoldsAndCounts) {
  store_options_.pins.most_bytes = 2 * kShape.bytes();
  Start();
  ASSERT_TRUE(PutTestPiece(fast(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(slow(), 2, kShape).ok());
  ASSERT_TRUE(PutTestPiece(fast(), 3, kShape).ok());
  const PinResponse pinned = Pin({1, 2, 3, 4}, 60000);
  EXPECT_EQ(pinned.pinned(), 2u);
  EXPECT_EQ(pinned.refused(), 1u);
  EXPECT_EQ(pinned.missing(), 1u);
  EXPECT_TRUE(fast()->Find(TestKey(2)).has_value());
  StatsResponse stats;
  ASSERT_TRUE(Call(&Stub::Stats, StatsRequest(), &stats).ok());
  EXPECT_EQ(stats.pinned_pieces(), 2u);
  EXPECT_EQ(stats.pinned_bytes(), 2 * kShape.bytes());
  UnpinResponse unpinned;
  ASSERT_TRUE(Call(&Stub::Unpin, Keys<UnpinRequest>({1, 4}), &unpinned).ok());
  EXPECT_EQ(unpinned.unpinned(), 1u);
  EXPECT_EQ(store_->pins().size(), 1u);
}

TEST_F(LifeCycleTest, PinWantsATtlInReach) {
  Start();
  for (const uint64_t ttl : {uint64_t{0}, uint64_t{1} << 40, UINT64_MAX}) {
    auto request = Keys<PinRequest>({1});
    request.set_ttl_ms(ttl);
    PinResponse response;
    EXPECT_EQ(Call(&Stub::Pin, request, &response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(LifeCycleTest, PrefetchBringsUp) {
  Start();
  ASSERT_TRUE(PutTestPiece(fast(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(slow(), 2, kShape).ok());
  ASSERT_TRUE(PutTestPiece(slow(), 3, kShape).ok());
  PrefetchResponse response;
  ASSERT_TRUE(Call(&Stub::Prefetch, Keys<PrefetchRequest>({1, 2, 3, 4}), &response).ok());
  EXPECT_EQ(response.present(), 1u);
  EXPECT_EQ(response.loaded(), 2u);
  EXPECT_EQ(response.missing(), 1u);
  EXPECT_TRUE(fast()->Find(TestKey(2)) && fast()->Find(TestKey(3)));
}

TEST_F(LifeCycleTest, ListGoesThroughAllInPages) {
  Start();
  const Tenant tenant = MakeTenant("somebody");
  for (uint32_t number = 0; number < 7; ++number) {
    const PieceShape shape = {.layers = 1 + number, .slice_bytes = 1000};
    Tier* tier = number % 2 == 0 ? fast() : slow();
    ASSERT_TRUE(PutTestPiece(tier, number, shape, number < 2 ? tenant : Tenant()).ok());
  }
  ASSERT_TRUE(store_->Pin(TestKey(1), absl::Hours(1)).ok());
  store_->WaitForWriteDowns();
  for (const auto order : {ListRequest::OLDEST, ListRequest::LARGEST}) {
    ListRequest request;
    request.set_order(order);
    request.set_page_size(3);
    std::vector<std::string> keys;
    for (int pages = 1;; ++pages) {
      const ListResponse page = List(request);
      for (const Entry& entry : page.entries()) keys.push_back(entry.key());
      if (page.next_page_token().empty()) break;
      request.set_page_token(page.next_page_token());
      ASSERT_LT(pages, 4);
    }
    ASSERT_EQ(keys.size(), 7u);
    for (uint32_t i = 0; i < 7; ++i) {
      EXPECT_EQ(keys[i], Raw(order == ListRequest::OLDEST ? i : 6 - i)) << i;
    }
  }
  ListRequest of_tenant;
  of_tenant.set_tenant(std::string(tenant.AsBytes()));
  const ListResponse page = List(of_tenant);
  ASSERT_EQ(page.entries_size(), 2);
  EXPECT_EQ(page.entries(0).tenant(), tenant.AsBytes());
  EXPECT_EQ(page.entries(1).tiers_size(), 2) << "pinned: in memory and below";
  EXPECT_GT(page.entries(1).pinned_ms(), 3500000u);
  EXPECT_EQ(page.entries(0).pinned_ms(), 0u);
}

TEST_F(LifeCycleTest, ListRefusesWhatItCannotGoOnFrom) {
  Start();
  ASSERT_TRUE(PutTestPiece(fast(), 1, kShape).ok());
  ASSERT_TRUE(PutTestPiece(fast(), 2, kShape).ok());
  ListRequest request;
  request.set_page_size(1);
  const std::string token = List(request).next_page_token();
  ASSERT_FALSE(token.empty());
  ListRequest other_order = request;
  other_order.set_page_token(token);
  other_order.set_order(ListRequest::LARGEST);
  ListRequest garbage = request;
  garbage.set_page_token("0:12:zz");
  ListRequest too_many = request;
  too_many.set_page_size(5000);
  ListRequest no_tenant = request;
  no_tenant.set_tenant("short");
  for (const ListRequest& bad : {other_order, garbage, too_many, no_tenant}) {
    ListResponse response;
    EXPECT_EQ(Call(&Stub::List, bad, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(LifeCycleTest, DeleteAndClear) {
  Start();
  const Tenant tenant = MakeTenant("somebody");
  for (uint32_t number = 0; number < 6; ++number) {
    Tier* tier = number % 2 == 0 ? fast() : slow();
    ASSERT_TRUE(PutTestPiece(tier, number, kShape, number < 4 ? tenant : Tenant()).ok());
  }
  DeleteResponse deleted;
  ASSERT_TRUE(Call(&Stub::Delete, Keys<DeleteRequest>({0, 1, 9}), &deleted).ok());
  EXPECT_EQ(deleted.deleted(), 2u);
  ClearRequest clear;
  clear.set_tenant(std::string(tenant.AsBytes()));
  ClearResponse cleared;
  ASSERT_TRUE(Call(&Stub::Clear, clear, &cleared).ok());
  EXPECT_EQ(cleared.deleted(), 2u);
  ASSERT_TRUE(Call(&Stub::Clear, ClearRequest(), &cleared).ok());
  EXPECT_EQ(cleared.deleted(), 2u);
  EXPECT_TRUE(fast()->List().empty() && slow()->List().empty());
}

TEST_F(LifeCycleTest, FlushNamesWhatIsNotDurable) {
  Start();
  ASSERT_TRUE(PutTestPiece(fast(), 1, kShape).ok());
  FlushResponse response;
  ASSERT_TRUE(Call(&Stub::Flush, Keys<FlushRequest>({1, 2}), &response).ok());
  ASSERT_EQ(response.not_durable_keys_size(), 1);
  EXPECT_EQ(response.not_durable_keys(0), Raw(2));
  EXPECT_TRUE(slow()->Find(TestKey(1)).has_value());
}

TEST_F(LifeCycleTest, KeysAreChecked) {
  options_.max_keys_per_call = 300;
  Start();
  PrefetchRequest many;
  for (int i = 0; i < 100000; ++i) many.add_keys(Raw(1));
  PrefetchResponse prefetched;
  const grpc::Status status = Call(&Stub::Prefetch, many, &prefetched);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(status.error_message().find("at most 300"), std::string::npos)
      << status.error_message();
  DeleteRequest wrong;
  wrong.add_keys("seven b");
  DeleteResponse deleted;
  EXPECT_EQ(Call(&Stub::Delete, wrong, &deleted).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(LifeCycleTest, StatsShowCountersAndGauges) {
  Start();
  ASSERT_TRUE(PutTestPiece(fast(), 1, kShape).ok());
  ASSERT_TRUE(store_->Erase(TestKey(1)));
  StatsResponse stats;
  ASSERT_TRUE(Call(&Stub::Stats, StatsRequest(), &stats).ok());
  ASSERT_EQ(stats.tiers_size(), 2);
  EXPECT_EQ(stats.tiers(0).evictions_by_reason().at("erased"), 1u);
  EXPECT_EQ(stats.counters().count("tessera_cache_fetches_total"), 1u);
  EXPECT_EQ(stats.counters().count("tessera_cache_load_queue"), 0u);
  EXPECT_EQ(stats.gauges().count("tessera_cache_load_queue"), 1u);
  EXPECT_EQ(stats.gauges().count("tessera_cache_fetches_total"), 0u);
  EXPECT_EQ(stats.gauges().count("tessera_cache_heap_bytes{part=\"used\"}"), 1u);
  EXPECT_FALSE(stats.draining());
}

}  // namespace
}  // namespace tessera::testing
