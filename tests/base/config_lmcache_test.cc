#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/base/config_loading.h"

namespace tessera::config {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(ConfigLmcacheTest, LmcacheNamesStandForOurs) {
  Cache cache;
  cache.environment = {"LMCACHE_MAX_LOCAL_CPU_SIZE=2.5",  "LMCACHE_LOCAL_DISK=file:///kv/",
                       "LMCACHE_MAX_LOCAL_DISK_SIZE=0.1", "LMCACHE_CACHE_POLICY=LRU",
                       "LMCACHE_LOCAL_CPU=True",          "LMCACHE_CHUNK_SIZE=256",
                       "LMCACHE_LOCAL_CPU_USE=",          "LMCACHE_REMOTE_SERDE=cachegen"};
  ASSERT_EQ(cache.Error(), "");
  EXPECT_EQ(cache.config.ram_bytes(), 2'500'000'000u);
  EXPECT_EQ(cache.config.disk_folder(), "/kv/");
  EXPECT_EQ(cache.config.disk_bytes(), 100'000'000u);
  EXPECT_EQ(cache.config.eviction(), "lru");
  EXPECT_EQ(cache.config.admission(), "second_sighting");
  // The worker takes the chunk size; nobody takes the other.
  EXPECT_THAT(cache.loaded.ignored, ElementsAre("LMCACHE_REMOTE_SERDE: Tessera has no equivalent"));
  cache.environment.push_back("LMCACHE_LOCAL_CPU=x");  // the first one counts
  cache.environment[4] = "LMCACHE_LOCAL_CPU=false";
  cache.environment[3] = "LMCACHE_CACHE_POLICY=MRU";
  ASSERT_EQ(cache.Error(), "");
  EXPECT_EQ(cache.config.ram_bytes(), 0u);
  EXPECT_EQ(cache.config.admission(), "all");
  EXPECT_EQ(cache.config.eviction(), "s3fifo");
  EXPECT_THAT(cache.loaded.ignored, ElementsAre("LMCACHE_CACHE_POLICY: nothing here is like 'MRU'",
                                                "LMCACHE_REMOTE_SERDE: Tessera has no equivalent"));
}

TEST(ConfigLmcacheTest, LmcacheValuesAreReadAsLmcacheWritesThem) {
  Worker worker{{}, {}, {"--model=m"}, {}, {}};
  worker.files["l.yaml"] =
      "chunk_size: 512\nblend_recompute_ratios: [0.25]\nremote_url: \"lm://host:9\"\n"
      "local_disk: ~\nextra_config: {a: [1, {b: 2}]}\nuse_layerwise: False\nenable_p2p: true\n";
  worker.environment = {"LMCACHE_CONFIG_FILE=l.yaml", "LMCACHE_BLEND_CHECK_LAYERS=4,"};
  ASSERT_EQ(worker.Error(), "");
  EXPECT_EQ(worker.config.chunk_size(), 512u);
  EXPECT_EQ(worker.config.recompute_ratio(), 0.25);
  EXPECT_EQ(worker.config.cache(), "host:9");
  EXPECT_EQ(worker.config.check_layer(), 4u);
  EXPECT_FALSE(worker.config.layerwise());
  EXPECT_THAT(worker.loaded.ignored,
              ElementsAre("l.yaml:7: enable_p2p: Tessera has no equivalent",
                          "l.yaml:5: extra_config: Tessera has no equivalent"));
  Gateway gateway = GatewayFile("");
  gateway.environment = {"LMCACHE_BLEND_SPECIAL_STR=\" ## \"", "LMCACHE_REMOTE_URL=redis://r:1"};
  ASSERT_EQ(gateway.Error(), "");
  EXPECT_EQ(gateway.config.blend_separator(), " ## ");
  EXPECT_EQ(gateway.config.cache(), "127.0.0.1:7600");
  EXPECT_THAT(gateway.loaded.ignored,
              ElementsAre("LMCACHE_REMOTE_URL: no cache server is at a 'redis' URL"));
}

TEST(ConfigLmcacheTest, WrongLmcacheValuesStopUnlessTheyDoNotCount) {
  Cache cache;
  cache.environment = {"LMCACHE_MAX_LOCAL_CPU_SIZE=5GB", "LMCACHE_LOCAL_DISK=true"};
  EXPECT_EQ(cache.Error(),
            "LMCACHE_MAX_LOCAL_CPU_SIZE: '5GB' is not a number of GB: give one, such as 5 or 0.5\n"
            "LMCACHE_LOCAL_DISK: 'true' names no folder: give one, such as file:///var/cache/kv");
  cache.arguments = {"--ram_bytes=1MiB", "--disk_folder=/d"};
  ASSERT_EQ(cache.Error(), "");
  EXPECT_EQ(cache.config.disk_folder(), "/d");
  EXPECT_THAT(cache.loaded.ignored, IsEmpty());
  Worker worker{{}, {}, {"--model=m"}, {}, {}};
  worker.environment = {"LMCACHE_BLEND_RECOMPUTE_RATIOS=0.1,0.2", "LMCACHE_CHUNK_SIZE=8"};
  EXPECT_EQ(worker.Error(),
            "LMCACHE_BLEND_RECOMPUTE_RATIOS: there are 2 values: give one\n"
            "LMCACHE_CHUNK_SIZE: '8' is out of range: give 16 to 65536");
}

}  // namespace
}  // namespace tessera::config
