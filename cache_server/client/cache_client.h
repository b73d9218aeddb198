// How a worker reads and writes chunk KV: pieces in, pieces out, layer by layer. Whatever goes
// wrong is a miss and a counter, never an error of the request.
#ifndef TESSERA_CACHE_SERVER_CLIENT_CACHE_CLIENT_H_
#define TESSERA_CACHE_SERVER_CLIENT_CACHE_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cache_server/chunk/key.h"

namespace tessera {

// One piece to fetch, and where its bytes go: `layers` slices of `slice_bytes`, one after the
// other. The memory must outlive the FetchStream. A piece that is stored with other sizes is a
// miss.
struct FetchTarget {
  ChunkKey key;
  uint32_t layers = 0;
  uint64_t slice_bytes = 0;
  std::byte* memory = nullptr;
};

// One piece to store; the memory must live until Store returns.
struct StoreSource {
  ChunkKey key;
  uint32_t layers = 0;
  uint64_t slice_bytes = 0;
  const std::byte* memory = nullptr;
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
  // (missing, stream broken, too late, wrong checksum), and neither will any later layer of this
  // target; what came before may be used, but the whole piece should be recomputed.
  virtual bool WaitForSlice(size_t target, uint32_t layer) = 0;
};

struct ClientCounters {
  uint64_t fetched_bytes = 0;
  uint64_t stored_bytes = 0;
  uint64_t failed_fetches = 0;  // streams that broke, or could not be opened
  uint64_t failed_stores = 0;
  uint64_t checksum_failures = 0;
  uint64_t skipped_calls = 0;  // not tried, because the server kept failing (circuit breaker)
};

// Thread-safe.
class CacheClient {
 public:
  virtual ~CacheClient() = default;

  // Starts a fetch; returns at once. The whole stream must end within `timeout`.
  virtual std::unique_ptr<FetchStream> Fetch(std::vector<FetchTarget> targets,
                                             absl::Duration timeout) = 0;

  // Stores the pieces in one stream and waits for the answer, up to `timeout`. Returns how many the
  // server newly holds; a failure is counted and reported as 0.
  virtual size_t Store(const std::vector<StoreSource>& sources, absl::Duration timeout) = 0;

  virtual ClientCounters counters() const = 0;
};

// A client over gRPC. `address` is "host:port" or "unix:/path". No connection is made before the
// first call, and a server that comes later is found.
std::unique_ptr<CacheClient> MakeGrpcCacheClient(const std::string& address);

// For a worker without a cache: every fetch misses, every store is dropped.
std::unique_ptr<CacheClient> MakeNullCacheClient();

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_CACHE_CLIENT_H_
