// How a worker reads and writes chunk KV: pieces in, pieces out, layer by layer. Whatever goes
// wrong is a miss and a counter, never an error of the request.
#ifndef TESSERA_CACHE_SERVER_CLIENT_CACHE_CLIENT_H_
#define TESSERA_CACHE_SERVER_CLIENT_CACHE_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cache_server/chunk/key.h"

namespace tessera {

// One piece to fetch, and where its bytes go: `layers` slices of `slice_bytes`, one after the
// other. The memory must outlive the FetchStream. Without memory, the stream has its own, or reads
// the server's memory in place (see FetchStream::Slice). A piece that is stored with other sizes is
// a miss.
struct FetchTarget {
  ChunkKey key;
  uint32_t layers = 0;
  uint64_t slice_bytes = 0;
  std::byte* memory = nullptr;
};

// A store or a question.
struct CallOptions {
  // A time alone will do.
  CallOptions(absl::Duration call_timeout, std::string request = {})
      : timeout(call_timeout), request_id(std::move(request)) {}

  absl::Duration timeout;
  // Which request it is for, as the server's log shall name it; empty: none. Sent only if a header
  // could carry it: at most 128 bytes, visible ASCII.
  std::string request_id;
};

struct FetchOptions {
  // The whole stream must end within this time.
  absl::Duration timeout = absl::Seconds(10);
  // How much longer slices that are there may be waited for, by a reader who computes between them:
  // so long their lease is renewed.
  absl::Duration use_within = absl::ZeroDuration();
  // The targets are a chain of prefix blocks: those after the first miss are misses too.
  bool stop_at_first_miss = false;
  // Called when HeaderReady or SliceReady may say something new, for who asks instead of waiting:
  // on any thread, from when Fetch is called to when the stream's destructor returns. It must be
  // quick, and must not call the stream. May come for nothing; nobody calls when ready_by passes.
  std::function<void()> on_progress = nullptr;
  // As CallOptions'.
  std::string request_id = {};
};

// One piece to store; the memory must live until Store returns.
struct StoreSource {
  ChunkKey key;
  uint32_t layers = 0;
  uint64_t slice_bytes = 0;
  const std::byte* memory = nullptr;
  Tenant tenant = {};
};

// A fetch on its way. Thread-safe. Its destructor cancels what is still travelling, and when it
// returns nobody writes to the targets' memory any more.
class FetchStream {
 public:
  virtual ~FetchStream() = default;

  // Waits for the server's word on every target. In the order asked: the tier that serves it
  // ("ram"), or empty for a miss. All are misses when the server cannot be reached in time.
  virtual std::vector<std::string> WaitForHeader() = 0;

  // Waits until this slice has arrived and its checksum was verified. False: it did not come
  // (missing, stream broken, too late, wrong checksum, cancelled), and neither will any later layer
  // of this target; what came before may be used, but the whole piece should be recomputed.
  virtual bool WaitForSlice(size_t target, uint32_t layer) = 0;

  // Whether WaitForHeader, or WaitForSlice of this slice, would return at once: with bytes, or
  // because they do not come. Never wait for the server; SliceReady may copy and verify slices.
  virtual bool HeaderReady() = 0;
  virtual bool SliceReady(size_t target, uint32_t layer) = 0;
  // So many layers of a target, from the first on, WaitForSlice would say true for at once; it may
  // know of fewer than SliceReady. For who would ask for many.
  virtual uint32_t ReadyLayers(size_t target) { return 0; }
  // When to ask again at the latest, though on_progress was not called: a deadline passes then.
  // From the last deadline on everything is ready.
  virtual absl::Time ready_by() = 0;

  // The bytes of a target's slices in these layers, side by side, that WaitForSlice said true for
  // or ReadyLayers counted, until the stream's end: in the target's memory if it has one. Without
  // one they may be the server's own memory, under a lease: whoever has used them asks LeaseHeld
  // afterwards, and throws away what it made of them if that is false.
  virtual absl::Span<const std::byte> Slices(size_t target, uint32_t first_layer,
                                             uint32_t layers) = 0;
  absl::Span<const std::byte> Slice(size_t target, uint32_t layer) {
    return Slices(target, layer, 1);
  }

  // Whether all bytes that Slice showed so far were still those that WaitForSlice verified.
  virtual bool LeaseHeld() = 0;

  // Whoever waits, now or later, waits no longer: what has not come is a miss.
  virtual void Cancel() = 0;
};

struct ClientCounters {
  uint64_t fetched_bytes = 0;
  uint64_t stored_bytes = 0;
  uint64_t failed_fetches = 0;  // streams that broke or could not be opened, questions unanswered
  uint64_t failed_stores = 0;
  uint64_t checksum_failures = 0;
  uint64_t skipped_calls = 0;     // not tried, because the server kept failing (circuit breaker)
  uint64_t shm_bytes = 0;         // of fetched_bytes: read from shared memory
  uint64_t shm_stored_bytes = 0;  // of stored_bytes: written to shared memory
  uint64_t shm_fallbacks = 0;     // calls that went over gRPC because shared memory failed
  uint64_t lost_leases = 0;       // fetches whose lease ended before they did
};

// Thread-safe. Outlives its FetchStreams.
class CacheClient {
 public:
  virtual ~CacheClient() = default;

  // Starts a fetch; returns at once.
  virtual std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                             const FetchOptions& options) = 0;

  // Stores the pieces in one stream and waits for the answer, up to the timeout. Returns how many
  // the server newly holds; a failure is counted and reported as 0.
  virtual size_t Store(const std::vector<StoreSource>& sources, const CallOptions& options) = 0;

  // Asks which keys the server does not have now, without moving a byte of KV; waits for the answer
  // up to the timeout. One for each key, in order: true for missing. All are when the server cannot
  // be reached in time.
  virtual std::vector<bool> FindMissing(const std::vector<ChunkKey>& keys,
                                        const CallOptions& options) = 0;

  virtual ClientCounters counters() const = 0;
};

// The memory that slices are read from, for a reader that has a device copy them from there.
// Thread-safe.
class ReadMemory {
 public:
  virtual ~ReadMemory() = default;

  // Memory for what a stream takes in of a target without memory.
  virtual std::shared_ptr<std::byte> Allocate(size_t bytes) = 0;

  // The memory of a server on this machine was mapped, for reading only, and slices will be read
  // there; it is about to be unmapped, and nobody reads there any more. Both may take long: no
  // fetch waits for Mapped.
  virtual void Mapped(const std::byte* begin, size_t bytes) = 0;
  virtual void Unmapped(const std::byte* begin) = 0;
};

// How to reach a server, and what it wants to see.
struct CacheAddress {
  std::string address;  // "host:port" or "unix:/path"
  // TLS: file with the certificates to trust; empty: no TLS.
  std::string ca_file;
  // mTLS: this client's own certificate and key; both or none.
  std::string cert_file;
  std::string key_file;
  // File whose first line is the token to send; empty: none.
  std::string token_file;
  // Read the memory of a server on the same machine in place, where it offers that.
  bool shared_memory = true;
};

// A client of one server: shared memory where the server offers it and lets us, gRPC for the rest
// and whenever that fails. No connection is made before the first call, and a server that comes
// later is found. read_memory: null, or what outlives the client. Errors: a file of `address` that
// cannot be read.
absl::StatusOr<std::unique_ptr<CacheClient>> MakeCacheClient(const CacheAddress& address,
                                                             ReadMemory* read_memory = nullptr);

// For a worker without a cache: every fetch misses, every store is dropped, every key is missing.
std::unique_ptr<CacheClient> MakeNullCacheClient();

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_CACHE_CLIENT_H_
