// Small calls that nobody waits for. Includes gRPC: only for the client's .cc files.
#ifndef TESSERA_CACHE_SERVER_CLIENT_BACKGROUND_CALLS_H_
#define TESSERA_CACHE_SERVER_CLIENT_BACKGROUND_CALLS_H_

#include <grpcpp/client_context.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cache_server/chunk/key.h"
#include "proto/kv_cache.grpc.pb.h"

namespace tessera {

// At most 16 at a time; more are not made. Thread-safe.
class BackgroundCalls {
 public:
  // The stub must outlive it.
  BackgroundCalls(cache::v1::KvCache::Stub* stub, std::string token)
      : stub_(*stub), token_(std::move(token)) {}
  // Cancels what is under way, and waits for it.
  ~BackgroundCalls();

  // Asks the server to forget a damaged piece.
  void Delete(const ChunkKey& key);

  // What the server says of itself. `done` is called once: at once when there are too many calls
  // (RESOURCE_EXHAUSTED), else on one of gRPC's threads.
  using Capabilities = absl::StatusOr<cache::v1::GetCapabilitiesResponse>;
  void GetCapabilities(absl::Duration timeout, std::function<void(Capabilities)> done);

 private:
  template <typename Request, typename Response>
  struct Call;

  // A context that the destructor can cancel. Null: there are too many.
  std::unique_ptr<grpc::ClientContext> Begin(absl::Duration timeout);
  void End(std::unique_ptr<grpc::ClientContext> context);

  cache::v1::KvCache::Stub& stub_;
  const std::string token_;
  absl::Mutex mutex_;
  absl::flat_hash_set<grpc::ClientContext*> open_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_CACHE_SERVER_CLIENT_BACKGROUND_CALLS_H_
