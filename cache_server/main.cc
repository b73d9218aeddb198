// tessera_cache_server: keeps chunk KV in memory and serves it over gRPC. cache_server/README.md
// describes it; `--help` lists the flags.
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/time/time.h"
#include "base/process.h"
#include "cache_server/service/quiet_grpc.h"
#include "cache_server/service/server.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/tier/metered_tier.h"
#include "cache_server/tier/ram_tier.h"
#include "glog/logging.h"

ABSL_FLAG(
    std::string, listen, "127.0.0.1:7600",
    "Where to listen: host:port (port 0: any free one, see the log line event=ready) or "
    "unix:/path. There is no authentication: listen only where every peer may read and write.");
ABSL_FLAG(uint64_t, ram_bytes, uint64_t{4} << 30,
          "Most bytes of chunk KV in memory, pinned and unfinished pieces included. Least recently "
          "used pieces are evicted to stay below it.");
ABSL_FLAG(
    size_t, max_open_fetches, 256,
    "Fetch streams open at the same time; more fail with RESOURCE_EXHAUSTED. Each pins what it "
    "asked for until it ends.");
ABSL_FLAG(size_t, max_open_stores, 64,
          "Store streams open at the same time; more fail with RESOURCE_EXHAUSTED.");
ABSL_FLAG(size_t, max_keys_per_call, 1024,
          "Keys in one FindMissing or Fetch call; more fail with INVALID_ARGUMENT. At least 256, "
          "which every client may count on.");
ABSL_FLAG(size_t, message_bytes, tessera::kDefaultPartBytes,
          "Payload of one Fetch message, bytes, up to 8 MiB. Larger layer slices travel in parts.");
ABSL_FLAG(uint64_t, max_slice_bytes, uint64_t{64} << 20,
          "Largest layer slice that Store accepts, bytes; pieces with larger ones are rejected.");
ABSL_FLAG(absl::Duration, lease, absl::Seconds(10),
          "A Fetch whose reader takes nothing for this long is cancelled and its pins go.");
ABSL_FLAG(
    absl::Duration, store_timeout, absl::Seconds(30),
    "A Store that takes longer ends with DEADLINE_EXCEEDED; its unfinished piece is dropped.");
ABSL_FLAG(absl::Duration, stop_grace, absl::Seconds(5),
          "After SIGTERM or SIGINT, how long open streams may go on before they are cancelled.");

namespace tessera {
namespace {

ServerOptions OptionsFromFlags() {
  ServerOptions options;
  options.listen = absl::GetFlag(FLAGS_listen);
  options.max_open_fetches = absl::GetFlag(FLAGS_max_open_fetches);
  options.max_open_stores = absl::GetFlag(FLAGS_max_open_stores);
  options.max_keys_per_call = absl::GetFlag(FLAGS_max_keys_per_call);
  options.message_bytes = absl::GetFlag(FLAGS_message_bytes);
  options.max_slice_bytes = absl::GetFlag(FLAGS_max_slice_bytes);
  options.lease = absl::GetFlag(FLAGS_lease);
  options.store_timeout = absl::GetFlag(FLAGS_store_timeout);
  return options;
}

int Run() {
  QuietGrpc();
  if (absl::GetFlag(FLAGS_max_keys_per_call) < 256) {
    std::cerr << "tessera_cache_server: --max_keys_per_call must be at least 256\n";
    return 1;
  }
  std::vector<std::unique_ptr<Tier>> tiers;
  tiers.push_back(MakeMeteredTier(MakeRamTier({.capacity_bytes = absl::GetFlag(FLAGS_ram_bytes)})));
  ChunkStore store(std::move(tiers));
  const ServerOptions options = OptionsFromFlags();
  auto server = CacheServer::Start(options, &store);
  if (!server.ok()) {
    std::cerr << "tessera_cache_server: " << server.status().message() << "\n";
    return 1;
  }
  LOG(INFO) << "event=ready listen=" << options.listen << " port=" << (*server)->port()
            << " ram_bytes=" << absl::GetFlag(FLAGS_ram_bytes);
  WaitForStopSignal();
  LOG(INFO) << "event=stopping open_fetches=" << (*server)->open_fetches()
            << " open_stores=" << (*server)->open_stores();
  (*server)->Stop(absl::GetFlag(FLAGS_stop_grace));
  LOG(INFO) << "event=stopped";
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  return tessera::Run();
}
