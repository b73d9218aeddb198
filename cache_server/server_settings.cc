#include "cache_server/server_settings.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace tessera {
namespace {

using config::CacheServerConfig;

// Memory that keeps nothing still has to hold what goes to the disk and comes from it.
constexpr uint64_t kPassageBytes = 256'000'000;

// A folder that only we can enter. UNAVAILABLE: it is somebody else's.
absl::Status MakePrivateFolder(const std::string& folder) {
  mkdir(folder.c_str(), 0700);
  struct stat facts;
  if (lstat(folder.c_str(), &facts) != 0 || !S_ISDIR(facts.st_mode) || facts.st_uid != getuid() ||
      (facts.st_mode & 077) != 0) {
    return absl::UnavailableError(absl::StrCat(
        folder, " is not a folder of ours alone; give --shm_socket=PATH or --shm_socket=none"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ShmSocketPath(const std::string& given, const std::string& listen) {
  if (given == "none" || given.empty()) return std::string();
  if (given != "auto") return given;
  if (absl::StartsWith(listen, "unix:")) {
    return absl::StrCat(absl::StripPrefix(listen, "unix:"), ".shm");
  }
  const std::string folder = absl::StrCat("/tmp/tessera-", getuid());
  RETURN_IF_ERROR(MakePrivateFolder(folder));
  const std::string port = listen.substr(std::min(listen.rfind(':'), listen.size() - 1) + 1);
  // Servers on any free port tell themselves apart by their process.
  return port == "0" ? absl::StrCat(folder, "/cache-pid-", getpid(), ".sock")
                     : absl::StrCat(folder, "/cache-", port, ".sock");
}

absl::Status ReadTiers(const CacheServerConfig& config, ServerSettings* settings) {
  // A store that keeps nothing is one whose memory is too small for anything.
  settings->ram_bytes = std::max<uint64_t>(config.ram_bytes(), 4096);
  if (config.ram_bytes() == 0 && !config.disk_folder().empty()) settings->ram_bytes = kPassageBytes;
  settings->huge_pages = config.huge_pages();
  ASSIGN_OR_RETURN(settings->ram.eviction, ParseEvictionKind(config.eviction()));
  settings->ram.evict_from = config.evict_from();
  settings->ram.tenant_bytes = config.tenant_ram_bytes();
  settings->disk.folder = config.disk_folder();
  settings->disk.capacity_bytes = config.disk_bytes();
  settings->disk.free_floor_bytes = config.disk_free_floor_bytes();
  settings->disk.write_buffer_bytes = config.disk_write_buffer_bytes();
  settings->disk.direct_reads = config.disk_direct_reads();
  settings->disk.eviction = settings->ram.eviction;
  settings->disk.tenant_bytes = config.tenant_disk_bytes();
  ChunkStoreOptions& store = settings->store;
  ASSIGN_OR_RETURN(store.admission, ParseAdmissionKind(config.admission()));
  ASSIGN_OR_RETURN(store.promotion, ParsePromotionKind(config.promotion()));
  store.loader.threads = config.load_threads();
  store.write_behind.most_bytes = config.write_queue_bytes();
  store.write_behind.flush_interval = absl::Milliseconds(config.flush_interval());
  const uint64_t pins = config.pin_bytes();
  store.pins.most_bytes = pins == 0 ? settings->ram_bytes / 2 : pins;
  return absl::OkStatus();
}

absl::Status ReadServer(const CacheServerConfig& config, ServerSettings* settings) {
  ServerOptions& server = settings->server;
  server.listen = config.listen();
  server.max_open_fetches = config.max_open_fetches();
  server.max_open_stores = config.max_open_stores();
  server.max_watches = config.max_watches();
  server.max_keys_per_call = config.max_keys_per_call();
  server.message_bytes = config.message_bytes();
  server.max_slice_bytes = config.max_slice_bytes();
  server.lease = absl::Milliseconds(config.lease());
  server.store_timeout = absl::Milliseconds(config.store_timeout());
  server.tls_cert_file = config.tls_cert_file();
  server.tls_key_file = config.tls_key_file();
  server.tls_client_ca_file = config.tls_client_ca_file();
  if (const std::string& file = config.token_file(); !file.empty()) {
    ASSIGN_OR_RETURN(server.token, ReadTokenFile(file));
  }
  ASSIGN_OR_RETURN(settings->shm.path, ShmSocketPath(config.shm_socket(), server.listen));
  settings->shm.most_sessions = config.max_shm_sessions();
  settings->shm.lease = server.lease;
  settings->shm.max_keys_per_call = server.max_keys_per_call;
  settings->shm.max_slice_bytes = server.max_slice_bytes;
  settings->shm.token = server.token;
  settings->shm.instance_id = server.instance_id;
  settings->metrics_listen = config.metrics_listen();
  settings->stop_grace = absl::Milliseconds(config.stop_grace());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ServerSettings> SettingsFrom(const CacheServerConfig& config) {
  ServerSettings settings;
  RETURN_IF_ERROR(ReadTiers(config, &settings));
  RETURN_IF_ERROR(ReadServer(config, &settings));
  return settings;
}

}  // namespace tessera
