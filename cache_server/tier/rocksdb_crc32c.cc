#include "cache_server/tier/rocksdb_crc32c.h"

#include <dlfcn.h>
#include <nmmintrin.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "glog/logging.h"

namespace tessera {
namespace {

using ExtendFunction = uint32_t (*)(uint32_t, const char*, size_t);

std::atomic<bool> is_used{false};

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

// The instruction where the processor has it, else RocksDB's own.
ExtendFunction ChooseExtend() {
  if (__builtin_cpu_supports("sse4.2")) return ExtendInHardware;
  void* const own = dlsym(RTLD_NEXT, "_ZN7rocksdb6crc32c6ExtendEjPKcm");
  CHECK(own != nullptr) << "RocksDB has no CRC32C of its own";
  return reinterpret_cast<ExtendFunction>(own);
}

}  // namespace

bool FastCrc32cIsUsed() { return is_used.load(std::memory_order_relaxed); }

}  // namespace tessera

namespace rocksdb::crc32c {

uint32_t Extend(uint32_t crc, const char* bytes, size_t size);

uint32_t Extend(uint32_t crc, const char* bytes, size_t size) {
  static const tessera::ExtendFunction extend = tessera::ChooseExtend();
  if (!tessera::is_used.load(std::memory_order_relaxed)) tessera::is_used = true;
  return extend(crc, bytes, size);
}

}  // namespace rocksdb::crc32c
