// The flags of tessera_cache_server, as the options that they stand for.
#ifndef TESSERA_CACHE_SERVER_SERVER_FLAGS_H_
#define TESSERA_CACHE_SERVER_SERVER_FLAGS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_server/service/server.h"
#include "cache_server/service/shm_server.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/ram_tier.h"
#include "cache_server/tier/rocksdb_tier.h"

namespace tessera {

struct ServerSettings {
  uint64_t ram_bytes = 0;
  bool huge_pages = true;
  RamTierOptions ram;
  RocksdbTierOptions disk;  // no folder: no disk tier
  ChunkStoreOptions store;
  ServerOptions server;
  ShmServerOptions shm;  // no socket path: none
  std::string metrics_listen;
  absl::Duration stop_grace;
};

// Reads and checks all flags. INVALID_ARGUMENT names the flag, and says what it takes.
absl::StatusOr<ServerSettings> SettingsFromFlags();

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVER_FLAGS_H_
