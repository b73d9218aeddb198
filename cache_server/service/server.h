// The cache server's gRPC face: the KvCache service, health, and reflection over one ChunkStore.
#ifndef TESSERA_CACHE_SERVER_SERVICE_SERVER_H_
#define TESSERA_CACHE_SERVER_SERVICE_SERVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_server/service/shm_server.h"
#include "cache_server/service/transport_counters.h"
#include "cache_server/store/chunk_store.h"
#include "cache_server/store/key_events.h"
#include "cache_server/transfer/slice_wire.h"

namespace tessera {

// 16 hexadecimal digits that no other server has.
std::string RandomInstanceId();

// Past a limit a call fails with RESOURCE_EXHAUSTED or INVALID_ARGUMENT (proto/kv_cache.proto says
// which).
struct ServerOptions {
  // "host:port" (port 0: any free one) or "unix:/path".
  std::string listen = "127.0.0.1:7600";
  // Streams open at the same time. Each open Fetch pins the pieces that it asked for.
  size_t max_open_fetches = 256;
  size_t max_open_stores = 64;
  // Keys in one FindMissing or Fetch call.
  size_t max_keys_per_call = 1024;
  // Payload of one Fetch message, bytes; at most kMaxPartBytes. What Store accepts is
  // kMaxPartBytes.
  size_t message_bytes = kDefaultPartBytes;
  // Largest layer slice that Store accepts, bytes; larger ones are rejected.
  uint64_t max_slice_bytes = uint64_t{64} << 20;
  // A Fetch whose reader takes nothing for this long is cancelled, so that its pins go.
  absl::Duration lease = absl::Seconds(10);
  // A Store must end within this time; its unfinished piece is dropped then.
  absl::Duration store_timeout = absl::Seconds(30);
  // Watch streams open at the same time.
  size_t max_watches = 16;
  // A Drain without a deadline returns after this time with what is still open.
  absl::Duration longest_drain = absl::Minutes(10);
  // TLS: files of the server's certificate chain and key, PEM; both or none.
  std::string tls_cert_file;
  std::string tls_key_file;
  // mTLS: file of the certificates that clients' own must be signed by; empty: clients need none.
  std::string tls_client_ca_file;
  // What every call must show as `authorization: Bearer TOKEN`; empty: nothing. Health and
  // reflection are open.
  std::string token;
  // Told to clients, which see by a change that the server was restarted.
  std::string instance_id = RandomInstanceId();
  // Told to clients: where the ShmServer listens; empty without one.
  std::string shm_socket;
};

// What a server works on; all of it must outlive the server.
struct ServerParts {
  ChunkStore* store = nullptr;
  KeyEvents* events = nullptr;            // null: Watch is refused
  TransportCounters* counters = nullptr;
  ShmServer* shm = nullptr;               // null: there is none
};

// A running server. Thread-safe.
class CacheServer {
 public:
  virtual ~CacheServer() = default;

  // Starts to serve. Errors: INVALID_ARGUMENT (an option, a file), UNAVAILABLE (the address is taken
  // or not ours).
  static absl::StatusOr<std::unique_ptr<CacheServer>> Start(const ServerOptions& options,
                                                            const ServerParts& parts);

  // The port that it listens on; 0 for a Unix socket.
  virtual int port() const = 0;

  // Streams that are open now.
  virtual size_t open_fetches() const = 0;
  virtual size_t open_stores() const = 0;

  // Takes no new calls, lets running ones end for up to `grace`, then cancels them. Returns when
  // none is left. Called again, or by the destructor (with no grace), it does nothing more.
  virtual void Stop(absl::Duration grace) = 0;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_SERVICE_SERVER_H_
