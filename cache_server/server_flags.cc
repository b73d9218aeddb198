#include "cache_server/server_flags.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/status_macros.h"

ABSL_FLAG(std::string, listen, "127.0.0.1:7600",
          "Where to listen: host:port (port 0: any free one, see the log line event=ready) or "
          "unix:/path. Without --token_file and TLS every peer that reaches it may read and write.");

// Memory.
ABSL_FLAG(uint64_t, ram_bytes, uint64_t{4} << 30,
          "Most bytes of chunk KV in memory, pinned and unfinished pieces included. The memory is "
          "shared with this machine's workers (see --shm_socket), and taken when it is first used.");
ABSL_FLAG(bool, huge_pages, true, "Pages of 2 MiB for that memory where the system gives them.");
ABSL_FLAG(std::string, eviction, "s3fifo",
          "Which pieces go when a tier is full: s3fifo, or lru (least recently used).");
ABSL_FLAG(double, evict_from, 0.9,
          "Share of the memory that entries may fill; the rest is for pieces that are being read "
          "and written. Above 0, at most 1.");
ABSL_FLAG(uint64_t, tenant_ram_bytes, 0, "Most bytes of one tenant in memory; 0: no limit.");
ABSL_FLAG(uint64_t, pin_bytes, 0,
          "Most bytes that pins may hold; 0: a half of --ram_bytes. Past it, Pin is refused.");

// Disk.
ABSL_FLAG(std::string, disk_folder, "",
          "Folder of the disk tier; made if it is not there, and kept over restarts. Empty: none.");
ABSL_FLAG(uint64_t, disk_bytes, uint64_t{100} << 30, "Most bytes of that folder.");
ABSL_FLAG(uint64_t, disk_free_floor_bytes, uint64_t{2} << 30,
          "Nothing is written while the file system has less than this free.");
ABSL_FLAG(uint64_t, disk_write_buffer_bytes, uint64_t{256} << 20,
          "Buffered before a file of this size is written. Several of these are held in memory.");
ABSL_FLAG(bool, disk_direct_reads, true,
          "Read past the page cache. Off for file systems that cannot (tmpfs).");
ABSL_FLAG(uint64_t, tenant_disk_bytes, 0, "Most bytes of one tenant on disk; 0: no limit.");
ABSL_FLAG(std::string, admission, "second_sighting",
          "What goes to disk: all, second_sighting (stored or read twice), or pinned (only that).");
ABSL_FLAG(std::string, promotion, "always",
          "What stays in memory after a read from disk: always, second_read, or never.");
ABSL_FLAG(size_t, load_threads, 4, "Threads that read from disk.");
ABSL_FLAG(uint64_t, write_queue_bytes, uint64_t{512} << 20,
          "Bytes that may wait in memory to be written to disk; past it, pieces are not written.");
ABSL_FLAG(absl::Duration, flush_interval, absl::Seconds(30),
          "How often what was written is made durable; a crash loses no more.");

// Calls.
ABSL_FLAG(size_t, max_open_fetches, 256,
          "Fetch streams open at the same time; more fail with RESOURCE_EXHAUSTED. Each pins what "
          "it asked for until it ends.");
ABSL_FLAG(size_t, max_open_stores, 64,
          "Store streams open at the same time; more fail with RESOURCE_EXHAUSTED.");
ABSL_FLAG(size_t, max_watches, 16, "Watch streams open at the same time.");
ABSL_FLAG(size_t, max_keys_per_call, 1024,
          "Keys in one call; more fail with INVALID_ARGUMENT. At least 256, which every client may "
          "count on.");
ABSL_FLAG(size_t, message_bytes, tessera::kDefaultPartBytes,
          "Payload of one Fetch message, bytes, up to 8 MiB. Larger layer slices travel in parts.");
ABSL_FLAG(uint64_t, max_slice_bytes, uint64_t{64} << 20,
          "Largest layer slice that Store accepts, bytes; pieces with larger ones are rejected.");
ABSL_FLAG(absl::Duration, lease, absl::Seconds(10),
          "A reader that takes nothing for this long is cut off and its pins go.");
ABSL_FLAG(absl::Duration, store_timeout, absl::Seconds(30),
          "A Store that takes longer ends with DEADLINE_EXCEEDED; its unfinished piece is dropped.");
ABSL_FLAG(absl::Duration, stop_grace, absl::Seconds(5),
          "After SIGTERM or SIGINT, how long open streams may go on before they are cancelled.");

// Who may call, and who sees it.
ABSL_FLAG(std::string, tls_cert_file, "", "TLS: PEM file of the certificate chain.");
ABSL_FLAG(std::string, tls_key_file, "", "TLS: PEM file of its key.");
ABSL_FLAG(std::string, tls_client_ca_file, "",
          "mTLS: PEM file of the certificates that must have signed those of clients.");
ABSL_FLAG(std::string, token_file, "",
          "File whose first line every call must show as 'authorization: Bearer TOKEN'.");
ABSL_FLAG(std::string, shm_socket, "auto",
          "Unix socket over which processes of this machine and user read the memory in place: a "
          "path, 'none', or 'auto' (a private folder under /tmp).");
ABSL_FLAG(size_t, max_shm_sessions, 64, "Such processes' connections at the same time.");
ABSL_FLAG(std::string, metrics_listen, "",
          "host:port that answers GET /metrics for Prometheus. Empty: none.");

namespace tessera {
namespace {

absl::Status CheckNumbers() {
  if (absl::GetFlag(FLAGS_max_keys_per_call) < 256) {
    return absl::InvalidArgumentError("--max_keys_per_call must be at least 256");
  }
  const double evict_from = absl::GetFlag(FLAGS_evict_from);
  if (!(evict_from > 0 && evict_from <= 1)) {
    return absl::InvalidArgumentError("--evict_from must be above 0 and at most 1");
  }
  const size_t threads = absl::GetFlag(FLAGS_load_threads);
  if (threads < 1 || threads > 256) {
    return absl::InvalidArgumentError("--load_threads must be 1 to 256");
  }
  if (absl::GetFlag(FLAGS_flush_interval) < absl::Milliseconds(100)) {
    return absl::InvalidArgumentError("--flush_interval must be at least 100ms");
  }
  return absl::OkStatus();
}

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

absl::StatusOr<std::string> ShmSocketPath(const std::string& listen) {
  const std::string given = absl::GetFlag(FLAGS_shm_socket);
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

absl::Status ReadTiers(ServerSettings* settings) {
  // A store that keeps nothing is one whose memory is too small for anything.
  settings->ram_bytes = std::max<uint64_t>(absl::GetFlag(FLAGS_ram_bytes), 4096);
  settings->huge_pages = absl::GetFlag(FLAGS_huge_pages);
  ASSIGN_OR_RETURN(settings->ram.eviction, ParseEvictionKind(absl::GetFlag(FLAGS_eviction)));
  settings->ram.evict_from = absl::GetFlag(FLAGS_evict_from);
  settings->ram.tenant_bytes = absl::GetFlag(FLAGS_tenant_ram_bytes);
  settings->disk.folder = absl::GetFlag(FLAGS_disk_folder);
  settings->disk.capacity_bytes = absl::GetFlag(FLAGS_disk_bytes);
  settings->disk.free_floor_bytes = absl::GetFlag(FLAGS_disk_free_floor_bytes);
  settings->disk.write_buffer_bytes = absl::GetFlag(FLAGS_disk_write_buffer_bytes);
  settings->disk.direct_reads = absl::GetFlag(FLAGS_disk_direct_reads);
  settings->disk.eviction = settings->ram.eviction;
  settings->disk.tenant_bytes = absl::GetFlag(FLAGS_tenant_disk_bytes);
  ChunkStoreOptions& store = settings->store;
  ASSIGN_OR_RETURN(store.admission, ParseAdmissionKind(absl::GetFlag(FLAGS_admission)));
  ASSIGN_OR_RETURN(store.promotion, ParsePromotionKind(absl::GetFlag(FLAGS_promotion)));
  store.loader.threads = absl::GetFlag(FLAGS_load_threads);
  store.write_behind.most_bytes = absl::GetFlag(FLAGS_write_queue_bytes);
  store.write_behind.flush_interval = absl::GetFlag(FLAGS_flush_interval);
  const uint64_t pins = absl::GetFlag(FLAGS_pin_bytes);
  store.pins.most_bytes = pins == 0 ? settings->ram_bytes / 2 : pins;
  return absl::OkStatus();
}

absl::Status ReadServer(ServerSettings* settings) {
  ServerOptions& server = settings->server;
  server.listen = absl::GetFlag(FLAGS_listen);
  server.max_open_fetches = absl::GetFlag(FLAGS_max_open_fetches);
  server.max_open_stores = absl::GetFlag(FLAGS_max_open_stores);
  server.max_watches = absl::GetFlag(FLAGS_max_watches);
  server.max_keys_per_call = absl::GetFlag(FLAGS_max_keys_per_call);
  server.message_bytes = absl::GetFlag(FLAGS_message_bytes);
  server.max_slice_bytes = absl::GetFlag(FLAGS_max_slice_bytes);
  server.lease = absl::GetFlag(FLAGS_lease);
  server.store_timeout = absl::GetFlag(FLAGS_store_timeout);
  server.tls_cert_file = absl::GetFlag(FLAGS_tls_cert_file);
  server.tls_key_file = absl::GetFlag(FLAGS_tls_key_file);
  server.tls_client_ca_file = absl::GetFlag(FLAGS_tls_client_ca_file);
  if (const std::string file = absl::GetFlag(FLAGS_token_file); !file.empty()) {
    ASSIGN_OR_RETURN(server.token, ReadTokenFile(file));
  }
  ASSIGN_OR_RETURN(settings->shm.path, ShmSocketPath(server.listen));
  settings->shm.most_sessions = absl::GetFlag(FLAGS_max_shm_sessions);
  settings->shm.lease = server.lease;
  settings->shm.max_keys_per_call = server.max_keys_per_call;
  settings->shm.max_slice_bytes = server.max_slice_bytes;
  settings->shm.token = server.token;
  settings->shm.instance_id = server.instance_id;
  settings->metrics_listen = absl::GetFlag(FLAGS_metrics_listen);
  settings->stop_grace = absl::GetFlag(FLAGS_stop_grace);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ServerSettings> SettingsFromFlags() {
  ServerSettings settings;
  RETURN_IF_ERROR(CheckNumbers());
  RETURN_IF_ERROR(ReadTiers(&settings));
  RETURN_IF_ERROR(ReadServer(&settings));
  return settings;
}

}  // namespace tessera
