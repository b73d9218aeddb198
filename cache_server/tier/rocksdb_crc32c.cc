#include "cache_server/tier/rocksdb_crc32c.h"

#include <dlfcn.h>
#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "glog/logging.h"

namespace tessera {
namespace {

std::atomic<bool> is_used{false};

#if defined(__x86_64__)

// One stretch after the other. Three side by side, as the instruction allows, measured no faster:
// what RocksDB checks comes from the disk, and the time goes into fetching it from memory.
__attribute__((target("sse4.2"))) uint32_t ExtendInHardware(uint32_t crc, const char* bytes,
                                                            size_t size) {
  uint64_t state = crc ^ 0xFFFFFFFFu;
  for (; size >= sizeof(uint64_t); bytes += sizeof(uint64_t), size -= sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    state = _mm_crc32_u64(state, word);
  }
  auto narrow = static_cast<uint32_t>(state);
  for (; size > 0; ++bytes, --size) narrow = _mm_crc32_u8(narrow, static_cast<uint8_t>(*bytes));
  return narrow ^ 0xFFFFFFFFu;
}

Crc32cFunction ChooseExtend() {
  return __builtin_cpu_supports("sse4.2") ? ExtendInHardware : RocksdbCrc32c();
}

#else

Crc32cFunction ChooseExtend() { return RocksdbCrc32c(); }

#endif

}  // namespace

Crc32cFunction RocksdbCrc32c() {
  void* const own = dlsym(RTLD_NEXT, "_ZN7rocksdb6crc32c6ExtendEjPKcm");
  CHECK(own != nullptr) << "RocksDB has no CRC32C of its own";
  return reinterpret_cast<Crc32cFunction>(own);
}

Crc32cFunction FastCrc32c() {
  static const Crc32cFunction chosen = ChooseExtend();
  return chosen;
}

bool FastCrc32cIsUsed() { return is_used.load(std::memory_order_relaxed); }

}  // namespace tessera

namespace rocksdb::crc32c {

uint32_t Extend(uint32_t crc, const char* bytes, size_t size);

uint32_t Extend(uint32_t crc, const char* bytes, size_t size) {
  if (!tessera::is_used.load(std::memory_order_relaxed)) tessera::is_used = true;
  return tessera::FastCrc32c()(crc, bytes, size);
}

}  // namespace rocksdb::crc32c
