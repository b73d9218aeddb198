// The configuration of tessera_cache_server (proto/config.proto) as the options of what it is made
// of.
#ifndef TESSERA_CACHE_SERVER_SERVER_SETTINGS_H_
#define TESSERA_CACHE_SERVER_SERVER_SETTINGS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_server/service/server.h"
#include "cache_server/service/shm_server.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/ram_tier.h"
#include "cache_server/tier/rocksdb_tier.h"
#include "proto/config.pb.h"

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

// Also reads the token, and makes the folder of the socket for shared memory. INVALID_ARGUMENT says
// what to change.
absl::StatusOr<ServerSettings> SettingsFrom(const config::CacheServerConfig& config);

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVER_SETTINGS_H_
