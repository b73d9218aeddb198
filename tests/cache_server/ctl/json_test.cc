#include "cache_server/ctl/json.h"

#include <gtest/gtest.h>

#include <string>

#include "proto/kv_cache.pb.h"

namespace tessera::ctl {
namespace {

TEST(JsonTest, BytesAreHexAndNumbersAreNumbers) {
  cache::v1::Entry entry;
  entry.set_key(std::string("\x00\xff\x10", 3));
  entry.set_layers(2);
  entry.set_slice_bytes(uint64_t{1} << 60);
  entry.add_tiers("ram");
  entry.add_tiers("rocksdb");
  EXPECT_EQ(boost::json::value(ToJson(entry)),
            boost::json::parse(R"({"key": "00ff10", "layers": 2, "slice_bytes": 1152921504606846976,
                "tenant": "", "tiers": ["ram", "rocksdb"], "age_ms": 0, "idle_ms": 0,
                "pinned_ms": 0})"));
}

TEST(JsonTest, MapsMessagesAndEnums) {
  cache::v1::StatsResponse stats;
  stats.add_tiers()->set_name("ram");
  (*stats.mutable_tiers(0)->mutable_evictions_by_reason())["room"] = 3;
  stats.set_draining(true);
  const boost::json::object json = ToJson(stats);
  EXPECT_EQ(json.at("tiers").at(0).at("evictions_by_reason").at("room").to_number<int>(), 3);
  EXPECT_TRUE(json.at("draining").as_bool());
  EXPECT_TRUE(json.at("counters").as_object().empty());

  cache::v1::WatchEvent event;
  event.set_kind(cache::v1::WatchEvent::EVICTED);
  EXPECT_EQ(ToJson(event).at("kind").as_string(), "evicted");
}

}  // namespace
}  // namespace tessera::ctl
