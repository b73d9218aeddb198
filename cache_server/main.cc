// tessera_cache_server: keeps chunk KV in memory and on disk, and serves it over gRPC and shared
// memory. cache_server/README.md describes it; `--help` lists the options.
#include <malloc.h>

#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "base/config/start.h"
#include "base/grpc_log.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/process.h"
#include "base/process_metrics.h"
#include "base/status_macros.h"
#include "cache_server/server_settings.h"
#include "cache_server/service/server.h"
#include "cache_server/service/shm_server.h"
#include "cache_server/service/store_samples.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/metered_tier.h"
#include "cache_server/tier/ram_tier.h"
#include "cache_server/tier/rocksdb_tier.h"
#include "proto/config.pb.h"

namespace tessera {
namespace {

// Giving free memory back costs some milliseconds, and as much again when it is wanted next.
constexpr absl::Duration kTrimEvery = absl::Seconds(30);
constexpr size_t kKeepFree = size_t{16} << 20;

std::vector<std::unique_ptr<Tier>> MakeTiers(const std::shared_ptr<SharedMemory>& memory,
                                             ServerSettings settings, KeyEvents* events,
                                             Metrics* metrics) {
  std::vector<std::unique_ptr<Tier>> tiers;
  settings.ram.on_evicted = events->ListenerFor("ram");
  tiers.push_back(
      MakeMeteredTier(MakeRamTier(memory, settings.ram), MakeTierLatencies("ram", metrics)));
  if (settings.disk.folder.empty()) return tiers;
  settings.disk.on_evicted = events->ListenerFor("rocksdb");
  auto disk = MakeRocksdbTier(settings.disk);
  if (disk.ok()) {
    tiers.push_back(MakeMeteredTier(*std::move(disk), MakeTierLatencies("rocksdb", metrics)));
  } else {
    // A cache without its disk is still a cache.
    LOG_EVENT(kError, "no_disk")
        .With("folder", settings.disk.folder)
        .With("error", disk.status().message())
        .With("msg", "serving from memory alone");
  }
  return tiers;
}

// Shared memory is a faster way to the same bytes; without it everybody uses gRPC.
std::unique_ptr<ShmServer> StartShm(const std::shared_ptr<SharedMemory>& memory,
                                    ServerSettings* settings, ChunkStore* store) {
  if (settings->shm.path.empty()) return nullptr;
  auto shm = ShmServer::Start(settings->shm, memory, store);
  if (shm.ok()) {
    settings->server.shm_socket = settings->shm.path;
    return *std::move(shm);
  }
  LOG_EVENT(kWarning, "no_shm")
      .With("socket", settings->shm.path)
      .With("error", shm.status().message())
      .With("msg", "workers use gRPC instead");
  return nullptr;
}

void Stop(CacheServer* server, ChunkStore* store, absl::Duration grace) {
  LOG_EVENT(kInfo, "stopping")
      .With("open_fetches", server->open_fetches())
      .With("open_stores", server->open_stores());
  server->Stop(grace);
  const auto flushed = store->Flush({});
  if (!flushed.ok() && !absl::IsFailedPrecondition(flushed.status())) {
    LOG_EVENT(kWarning, "flush_failed").WithError(flushed.status());
  }
  LOG_EVENT(kInfo, "stopped");
}

absl::Status Serve(const config::CacheServerConfig& config) {
  QuietGrpc();
  ASSIGN_OR_RETURN(ServerSettings settings, SettingsFrom(config));
  ASSIGN_OR_RETURN(const auto memory,
                   SharedMemory::Create(settings.ram_bytes, settings.huge_pages));
  const std::unique_ptr<Metrics> metrics = Metrics::Make();
  KeyEvents events;
  TransportCounters counters;
  ChunkStore store(MakeTiers(memory, settings, &events, metrics.get()), settings.store, &events);
  const std::unique_ptr<ShmServer> shm = StartShm(memory, &settings, &store);
  ASSIGN_OR_RETURN(const auto server, CacheServer::Start(settings.server, {.store = &store,
                                                                           .events = &events,
                                                                           .counters = &counters,
                                                                           .shm = shm.get()}));
  metrics->AddSource([&] {
    return StoreSamples({.store = &store,
                         .counters = &counters,
                         .shm = shm.get(),
                         .open_fetches = server->open_fetches(),
                         .open_stores = server->open_stores()});
  });
  metrics->AddSource([] { return ProcessSamples("cache_server"); });
  const absl::Cleanup no_sources = [&metrics] { metrics->RemoveSources(); };
  if (!settings.metrics_listen.empty()) RETURN_IF_ERROR(metrics->Serve(settings.metrics_listen));
  LOG_EVENT(kInfo, "ready")
      .With("listen", settings.server.listen)
      .With("port", server->port())
      .With("ram_bytes", settings.ram_bytes)
      .With("disk_folder", store.tiers().size() > 1 ? settings.disk.folder : "none")
      .With("shm_socket", shm == nullptr ? "none" : settings.shm.path)
      .With("metrics", settings.metrics_listen.empty() ? "none" : settings.metrics_listen);
  // What a burst of calls took from the system stays in malloc's hands until it is asked for.
  while (!WaitForStopSignal(kTrimEvery)) malloc_trim(kKeepFree);
  Stop(server.get(), &store, settings.stop_grace);
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  // Slices of up to 8 MiB come and go on many threads, and glibc would keep the peak of each of its
  // arenas: memory grew by 6 % in eight minutes of mixed work with them, and not at all with one.
  mallopt(M_ARENA_MAX, 1);
  tessera::config::CacheServerConfig config;
  tessera::config::StartConfigured(argc, argv, &config);
  const absl::Status status = tessera::Serve(config);
  if (status.ok()) return 0;
  std::cerr << "tessera_cache_server: " << status.message() << "\n";
  return 1;
}
