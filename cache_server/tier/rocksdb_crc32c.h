// CRC32C by the processor's own instruction, for RocksDB.
//
// RocksDB checks every blob with CRC32C, and Debian's build computes it from tables, at some 1.2
// GB/s: that would cost more than all else that a read does. Switching the check off for reads is
// no way out, as the same option guards RocksDB's tables, which it trusts blindly then (damage ends
// the process). So rocksdb_crc32c.cc defines the one function of RocksDB that does the work. The
// dynamic linker takes a program's own definition before a library's, and librocksdb calls it
// through its symbol. Where that does not happen, all is as slow as before, and as right.
#ifndef TESSERA_CACHE_SERVER_TIER_ROCKSDB_CRC32C_H_
#define TESSERA_CACHE_SERVER_TIER_ROCKSDB_CRC32C_H_

#include <cstddef>
#include <cstdint>

namespace tessera {

// The CRC32C of some bytes (`crc`) and of `size` more behind them.
using Crc32cFunction = uint32_t (*)(uint32_t crc, const char* bytes, size_t size);

// By the instruction where the processor has it, else RocksDB's own.
Crc32cFunction FastCrc32c();

// RocksDB's own.
Crc32cFunction RocksdbCrc32c();

// Whether RocksDB has used it in this process so far.
bool FastCrc32cIsUsed();

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_TIER_ROCKSDB_CRC32C_H_
