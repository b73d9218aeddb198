// RAM tiers over memory of their own, for tests.
#ifndef TESSERA_TESTS_CACHE_SERVER_TESTING_TEST_RAM_TIER_H_
#define TESSERA_TESTS_CACHE_SERVER_TESTING_TEST_RAM_TIER_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "cache_server/chunk/shared_memory.h"
#include "cache_server/tier/ram_tier.h"
#include "glog/logging.h"

namespace tessera::testing {

// A RAM tier of `bytes`, rounded up to whole pages.
inline std::unique_ptr<Tier> MakeTestRamTier(uint64_t bytes, const RamTierOptions& options = {}) {
  auto memory = SharedMemory::Create(bytes, /*huge_pages=*/false);
  CHECK(memory.ok()) << memory.status();
  return MakeRamTier(*std::move(memory), options);
}

// Options with which entries may use all of the memory, so that tests can count to its end.
inline RamTierOptions ToTheEnd() {
  RamTierOptions options;
  options.evict_from = 1;
  return options;
}

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_CACHE_SERVER_TESTING_TEST_RAM_TIER_H_
